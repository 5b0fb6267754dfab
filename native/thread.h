/*
 * What the core knows of a thread while it is inside the handler or inside an attempt. Thread-local storage is no use in a handler of a
 * loaded library (it may allocate), so this is a table of fixed size, searched by pthread_self() in sets of eight, and a thread has a
 * place in it only as long as it needs one.
 */
#ifndef PF_THREAD_H
#define PF_THREAD_H

#include "engine.h"
#include "step.h"

#include <sys/types.h>

#define PF_ATTEMPTS_MAX 16
#define PF_THREADS_MAX 1024

typedef struct {
  bool failed;
  uint64_t region, page;
  pf_why_t why;
} pf_attempt_t;

typedef struct {
  pid_t tid;            /* a new thread may get the address of one that was ended inside an attempt */
  uint32_t attempts;    /* nested attempt() calls */
  pf_attempt_t attempt[PF_ATTEMPTS_MAX];
  pf_step_t step;
  uint32_t handlers;    /* of ours on this thread's stack; it and what follows is never another thread's */
  struct pf_server *server; /* this is a service thread: what it is busy with (service.c) */
  uint32_t servings;    /* begun and not ended: the outermost is what is told below */
  /* What the thread waits for, for others to see. since 0: for nothing. Written by the thread alone. */
  _Atomic uint64_t serving_region, serving_page, serving_since_ns;
  _Atomic int serving_tid; /* whose fault it is: the thread's own, or one that it serves */
  _Atomic int serving_by;  /* the thread itself */
  _Atomic uint32_t doing;  /* pf_doing_t */
} pf_thread_t;

/* A consistent copy of what a thread waits for. */
typedef struct {
  uint64_t region, page, since_ns;
  int tid; /* the thread that waits */
  int by;  /* the one that sees to it: the same, or a service thread */
  pf_doing_t doing;
} pf_serving_t;

/* This thread's place; claimed if it has none. NULL: PF_THREADS_MAX threads have one. */
pf_thread_t *pf_thread_enter(void);
/* The place if there is one. */
pf_thread_t *pf_thread_find(void);
/* The place, if this very thread began an attempt in it. What another thread left behind is cleared away. */
pf_thread_t *pf_thread_attempting(void);
/* Gives the place back when nothing in it is needed any more. */
void pf_thread_leave(pf_thread_t *thread);
/* The kernel's number of the calling thread, without a system call. */
int pf_thread_tid(void);
/* From here on the thread waits for this page, for the fault of the thread `tid`. Returns the time. Each is ended by pf_thread_served. */
uint64_t pf_thread_serving(pf_thread_t *thread, uint64_t region_id, uint64_t page, int tid);
void pf_thread_served(pf_thread_t *thread);
/* What the thread with the index (< PF_THREADS_MAX) waits for. Any thread. False: for nothing. */
bool pf_thread_waits(size_t index, pf_serving_t *out);
/* How many threads wait for a page; PF_THREADS_MAX: 64 or more. One that a service thread has just answered counts once, although it may wait for its next page. */
uint32_t pf_thread_waiting(void);
/* The same for a page that the calling thread needs in a function of ours, not in a handler. NULL: there is no place, and nothing to be ended. */
pf_thread_t *pf_thread_begin_wait(const pf_region_t *region, uint64_t page, pf_wait_t *wait);
void pf_thread_end_wait(pf_thread_t *thread);
/* Which of the PF_THREADS_MAX places it is. */
size_t pf_thread_index(const pf_thread_t *thread);
/* The thread waits in a system call, as /proc tells, or may do so: /proc does not say. Not in a handler. */
bool pf_thread_in_call(int tid);
/* Starts a thread of ours: with every signal masked, joined by nobody. `stack`: bytes, 0 for as many as the C library gives. 0 or -errno. Not in a handler. */
int pf_thread_start_detached(void *(*run)(void *data), void *data, size_t stack);

#endif

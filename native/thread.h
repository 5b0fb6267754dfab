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

typedef struct {
  bool failed;
  uint64_t region, page;
  pf_why_t why;
} pf_attempt_t;

typedef struct {
  pid_t tid;            /* a new thread may get the address of one that was ended inside an attempt */
  uint32_t handlers;    /* of ours on this thread's stack */
  uint32_t attempts;    /* nested attempt() calls */
  pf_attempt_t attempt[PF_ATTEMPTS_MAX];
  pf_step_t step;
} pf_thread_t;

/* This thread's place; claimed if it has none. NULL: 1024 threads have one. */
pf_thread_t *pf_thread_enter(void);
/* The place if there is one. */
pf_thread_t *pf_thread_find(void);
/* The place, if this very thread began an attempt in it. What another thread left behind is cleared away. */
pf_thread_t *pf_thread_attempting(void);
/* Gives the place back when nothing in it is needed any more. */
void pf_thread_leave(pf_thread_t *thread);

#endif

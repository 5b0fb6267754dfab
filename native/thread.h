/*
 * What the core knows of a thread while it is inside the handler or inside an attempt. Thread-local storage is no use in a handler of a
 * loaded library (it may allocate), so this is a table of fixed size, searched by pthread_self() in sets of eight, and a thread has a
 * place in it only as long as it needs one.
 */
#ifndef PF_THREAD_H
#define PF_THREAD_H

#include "engine.h"
#include "step.h"

typedef struct {
  uint32_t handlers;  /* of ours on this thread's stack */
  uint32_t forwarding; /* handlers of others that we called and that have not returned */
  uint32_t attempts;  /* nested attempt() calls */
  uint32_t failed_at; /* depth of the outermost attempt that still has to hear of `failure`, 0: none */
  uint64_t failed_region, failed_page;
  pf_why_t failed_why;
  pf_step_t step;
} pf_thread_t;

/* This thread's place; claimed if it has none. NULL: 1024 threads have one. */
pf_thread_t *pf_thread_enter(void);
/* The place if there is one. */
pf_thread_t *pf_thread_find(void);
/* Gives the place back when nothing in it is needed any more. */
void pf_thread_leave(pf_thread_t *thread);

#endif

/* What is asked about a page, and what came of it: see fault.c. */
#ifndef PF_FAULT_H
#define PF_FAULT_H

#include "thread.h"

typedef struct {
  uint64_t page;
  pf_wait_t wait;  /* write and tid are the caller's to set */
  pf_why_t why;    /* of a page that cannot be had, or not be written */
  bool refused;    /* the page is there; what cannot be had is the write, or the page's being open */
  bool seen;       /* the page was there already */
} pf_fault_t;

/* In an entered region. True: the access may be made again. False with the reason. */
bool pf_fault_answer(pf_thread_t *thread, pf_region_t *region, pf_fault_t *fault);

#endif

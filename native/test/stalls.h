/* Waiting for what is told of a late page. */
#ifndef PF_TEST_STALLS_H
#define PF_TEST_STALLS_H

#include "support.h"

/* The first that is told of a region after `serial`; for wait_until. */
typedef struct {
  uint64_t region, serial;
  pf_stall_t stall;
} stall_search_t;

static inline bool is_told_late(void *argument) {
  stall_search_t *search = argument;
  sigset_t before;
  pf_mask_signals(&before);
  bool found = pf_stall_next(search->region, search->serial, &search->stall);
  pf_restore_signals(&before);
  return found;
}

#endif

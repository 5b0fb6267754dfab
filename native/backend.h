/*
 * What backend.c and close.c share: lists of pages of one region that the caller owns.
 */
#ifndef PF_BACKEND_H
#define PF_BACKEND_H

#include "engine.h"

/* chute.c: memory that pages are moved to with this userfaultfd, to be dropped. False: there is none now. */
typedef struct {
  uint8_t *bytes; /* PF_LOAD_MAX of them, missing */
  uint32_t slot;
} pf_chute_t;
bool pf__chute_take(pf_own_t mover, pf_chute_t *out);
/* Drops the first `len` bytes; none was taken: does nothing. */
void pf__chute_give(pf_chute_t *chute, size_t len);

/* In place; almost sorted is cheap. Handler-safe, as qsort is not. */
void pf__sort_pages(uint64_t *pages, uint32_t count);
/* Pages without shared memory over them to the front, each part in its order; returns how many they are. */
uint32_t pf__unpatched_first(const pf_region_t *region, uint64_t *pages, uint32_t count);
/* mprotect: all of them inaccessible, or none. Sorts `pages`. */
bool pf__close_spans(pf_region_t *region, uint64_t *pages, uint32_t count);
/* Dropped from the user's mapping. False: some may be. Sorts `pages`. */
bool pf__drop_spans(pf_region_t *region, uint64_t *pages, uint32_t count);
/* A page of shared memory leaves this region; its bytes stay. */
bool pf__hide_patched(pf_region_t *region, uint64_t page);

#endif

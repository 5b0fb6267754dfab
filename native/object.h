/*
 * Shared memory, and patches of it: memory that lies over parts of any number of regions.
 *
 * An object is a memory object of the kernel with a word for each of its pages, in it, so that every process that has it sees the same:
 *
 *     0 nobody has filled it ──▶ the number of who fills it ──▶ FILLED
 */
#ifndef PF_OBJECT_H
#define PF_OBJECT_H

#include "region.h"

typedef struct pf_object pf_object_t;

/* `len` bytes. Held once, for the caller. */
int pf_object_create(uint64_t len, pf_object_t **out);
/* One that another process made; the descriptor stays the caller's. -EINVAL: it is none. */
int pf_object_adopt(int fd, pf_object_t **out);
uint64_t pf_object_length(const pf_object_t *object);
int pf_object_fd(const pf_object_t *object);
void pf_object_drop(pf_object_t *object);
uint64_t pf_object_filled(const pf_object_t *object); /* bytes */

typedef enum { PF_FILLED, PF_TO_FILL, PF_BEING_FILLED } pf_filling_t;
/* What of a page that the caller owns (LOADING) is to be done: nothing; the caller fills what nobody has; or wait and ask again. */
pf_filling_t pf_patch_claim(pf_region_t *region, uint64_t page, bool impatient); /* `impatient`: what another process fills is taken over */
/* Puts bytes (NULL: zeroes) where the caller is to fill, and shows them to all. False: another process took some of it over; nothing is claimed any more. */
bool pf_patch_fill(pf_region_t *region, uint64_t page, const uint8_t *from);
/* The page counts as filled, but does not exist: somebody took it out of the memory. It is zeroes from here on. */
void pf_patch_mend(pf_region_t *region, uint64_t page);
/* Whether the page lies under shared memory, the page before it under the same, and somebody filled it. Changes unless the page is owned. */
bool pf_patch_goes_on(const pf_region_t *region, uint64_t page);
/* Gives back what was claimed and not filled; does nothing for any other page. */
void pf_patch_unclaim(pf_region_t *region, uint64_t page);
bool pf__patched(const pf_region_t *region, uint64_t page, uint8_t **bytes);

/* Lays `count` pages of an object over pages of the region, from byte `offset` of the object. 0; -EBUSY: some of these pages are pinned; -EEXIST: some are dirty;
 * -EOPNOTSUPP: the kernel cannot; -errno of mmap and others: as it was. The caller, who has entered the region, may be kept waiting for pages that are being
 * loaded. Set-up. */
int pf_region_patch(pf_region_t *region, uint64_t page, uint64_t count, pf_object_t *object, uint64_t offset);
/* Takes off the patches that have no dirty and no pinned page. */
void pf_region_unpatch(pf_region_t *region);
/* Of a closed region that nobody is inside of. Drain: its own memory takes their place. */
void pf_patches_drain(pf_region_t *region);
void pf_patches_free(pf_region_t *region);

/* How this page is opened, how writes to it are known, and where its bytes are when it is closed (twice mapped: always). */
static inline pf_backend_t pf_kind(const pf_region_t *region, uint64_t page) {
  bool patched = atomic_load_explicit(&region->patches, memory_order_relaxed) != NULL && region->backend == PF_BACKEND_SIGNAL && pf__patched(region, page, NULL);
  return patched ? PF_BACKEND_MEMFD : region->backend;
}
static inline bool pf_is_patched(const pf_region_t *region, uint64_t page) {
  return atomic_load_explicit(&region->patches, memory_order_relaxed) != NULL && pf__patched(region, page, NULL);
}
static inline pf_track_t pf_track_of(const pf_region_t *region, uint64_t page) {
  return region->track == PF_TRACK_ASYNC && pf_is_patched(region, page) ? PF_TRACK_FAULT : region->track;
}
/* The userfaultfd that the page is registered with. */
static inline pf_own_t pf_own_of(const pf_region_t *region, uint64_t page) {
  return pf_own_which(pf_track_of(region, page) == PF_TRACK_FAULT || region->sealed, region->served);
}
static inline uint8_t *pf_ours(const pf_region_t *region, uint64_t page) {
  uint8_t *bytes;
  bool patched = atomic_load_explicit(&region->patches, memory_order_relaxed) != NULL && pf__patched(region, page, &bytes);
  return patched ? bytes : region->ours + (page << region->page_shift);
}

#endif

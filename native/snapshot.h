/*
 * What the pages of guests are: an image that never changes, shared by any number of guests. It is made of layers (files; what a later one has shadows the
 * earlier ones; holes are zeroes), of nothing but zeroes, or of a segment. Files are mapped, so that the page cache has the only copy, and the kernel reads them while it copies into
 * the guest. The mapping is never touched by our own instructions: behind the end of a file that was cut short they would end the process, where a system
 * call says EFAULT.
 */
#ifndef PF_SNAPSHOT_H
#define PF_SNAPSHOT_H

#include "engine.h"

typedef struct pf_snapshot pf_snapshot_t;

typedef enum { PF_EXTENT_ZERO, PF_EXTENT_FILE, PF_EXTENT_SEGMENT } pf_extent_kind_t;

/* A run of bytes that come from one place. */
typedef struct {
  uint64_t start, end;
  pf_extent_kind_t kind;
  const uint8_t *at; /* FILE: where byte `start` is mapped; not to be touched */
} pf_extent_t;

/* An image of a segment's bytes. Takes nothing over: the segment is to stay open. */
int pf_snapshot_of_segment(uint64_t region_id, uint64_t length, pf_snapshot_t **out);
/* An image of zeroes: one hole. */
int pf_snapshot_of_zeroes(uint64_t length, pf_snapshot_t **out);
/* An image of files, base first, all of `length` bytes; the descriptors stay the caller's. -EINVAL: one has another length. Set-up. */
int pf_snapshot_of_files(const int *fds, size_t count, uint64_t length, pf_snapshot_t **out);

/* Counted: one for the maker, one a guest. */
void pf_snapshot_hold(pf_snapshot_t *snapshot);
void pf_snapshot_drop(pf_snapshot_t *snapshot);
uint32_t pf_snapshot_holders(const pf_snapshot_t *snapshot);

/* The segment, or 0. */
uint64_t pf_snapshot_segment(const pf_snapshot_t *snapshot);
/* The part of the extent at `offset` that begins there and has at most `most` bytes. What lies behind the end is zero. */
pf_extent_t pf_snapshot_at(const pf_snapshot_t *snapshot, uint64_t offset, uint64_t most);
/* Bytes of extents that are no zeroes, and their number: how much there is to bring. */
void pf_snapshot_extents(const pf_snapshot_t *snapshot, uint64_t *bytes, uint64_t *count);
/* The kernel will need this soon: it may begin to read. */
void pf_snapshot_will_need(const pf_snapshot_t *snapshot, uint64_t offset, uint64_t length);
/* Bytes that lie in several extents, put together. 0 or -errno. Not of a segment. */
int pf_snapshot_read(const pf_snapshot_t *snapshot, uint64_t offset, uint8_t *into, size_t length);

#endif

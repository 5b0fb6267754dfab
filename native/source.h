/* Where pages come from, and are written to: a file, memory, zeroes, or a pager (pager.h). Of the first three: source.c. */
#ifndef PF_SOURCE_H
#define PF_SOURCE_H

#include "state.h"

#include <stdbool.h>

typedef enum {
  PF_ASK_READ,
  PF_ASK_READ_TO_WRITE, /* a read, by a thread that will write */
  PF_ASK_AHEAD,         /* a read that nobody waits for yet */
  PF_ASK_ON_WRITE,      /* may a clean page be written? */
  PF_ASK_WRITE,         /* write these pages */
  PF_ASK_SYNC,
  PF_ASK_HURRY, /* no order: somebody has come to wait for a page of one ahead, which the pager has taken */
} pf_access_t;

typedef enum { PF_SOURCE_FILE, PF_SOURCE_MEMORY, PF_SOURCE_ZERO, PF_SOURCE_PAGER } pf_source_kind_t;

typedef struct {
  uint64_t device, inode, size;
  int64_t mtime_s, mtime_ns;
  bool linked;
} pf_identity_t;

typedef struct pf_pager pf_pager_t;

typedef struct {
  pf_source_kind_t kind;
  /* file: owned descriptor */
  int fd;
  bool check;
  bool written; /* by us, too: then the time of its last change says nothing */
  uint64_t offset;
  char *path;
  pf_identity_t identity[2];
  _Atomic uint32_t current; /* which identity counts */
  /* memory: bytes of the user's (shared) or of our own copy */
  const uint8_t *_Atomic bytes;
  void *owned;
  size_t owned_len;
  /* pager */
  pf_pager_t *pager;
  uint32_t store;
} pf_source_t;

/* Takes the identity of the open file. 0 or -errno. */
int pf_source_identify(pf_source_t *source);
/* The file as it is now counts from here on; a file put in its place is opened instead. 0 or -errno. Not in a handler. */
int pf_source_rebase(pf_source_t *source);
/* Reads exactly len bytes at offset of a file, memory or zero source. False with the reason; `permanent`: trying again is no use.
 * On failure `into` holds anything. `wait`: of whom, or NULL. */
typedef struct pf_wait pf_wait_t;
bool pf_source_read(const pf_source_t *source, uint64_t offset, uint8_t *into, size_t len, const pf_wait_t *wait, pf_why_t *why, bool *permanent);
/* Whether a file is still the one that was mapped; otherwise false with the reason. Before writes: pf_source_write does not look. */
bool pf_source_look(const pf_source_t *source, pf_why_t *why);
/* Writes all of the bytes to a file or memory source. On failure any part of them may be written. */
bool pf_source_write(const pf_source_t *source, uint64_t offset, const uint8_t *from, size_t len, pf_why_t *why);
/* Returns when what was written is durable. */
bool pf_source_sync(const pf_source_t *source, pf_why_t *why);
void pf_source_close(pf_source_t *source);

#endif

/* What the files of shared memory have in common (object.c, fill.c, patch.c). */
#ifndef PF_PATCH_H
#define PF_PATCH_H

#include "engine.h"

#define FILLED UINT32_MAX

struct pf_object {
  _Atomic uint32_t holders;
  int fd;
  int lock_fd;      /* an open file of our own, which has the lock on `number` */
  uint32_t number;  /* of this object among all that are the same memory: neither 0 nor FILLED */
  uint64_t length;  /* as it was asked for */
  uint64_t pages;
  size_t size;      /* of the mapping */
  uint8_t *ours;
  _Atomic uint32_t *words;
  _Atomic uint64_t *claims; /* of this process: the page that is filling, as token_of says, 0 none */
};

typedef struct {
  uint64_t first, end; /* pages of the region */
  pf_object_t *object;
  uint64_t at;         /* byte of the object that lies at `first` */
} patch_t;

/* Never changed once it is published. Holds its objects. */
struct pf_patches {
  struct pf_patches *older; /* of those that were replaced: a thread may still be looking at it */
  size_t count;
  patch_t list[];
};

/* The first patch that ends behind the page; NULL: none. */
static inline const patch_t *patch_from(const struct pf_patches *patches, uint64_t page) {
  size_t low = 0, high = patches == NULL ? 0 : patches->count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (patches->list[middle].end <= page) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return patches != NULL && low < patches->count ? &patches->list[low] : NULL;
}

static inline const patch_t *patch_at(const pf_region_t *region, uint64_t page) {
  const patch_t *patch = patch_from(atomic_load_explicit(&region->patches, memory_order_acquire), page);
  return patch != NULL && patch->first <= page ? patch : NULL;
}

/* Nobody has this number any more. */
bool pf__object_is_gone(const pf_object_t *object, uint32_t number);
void pf__object_hold(pf_object_t *object);

#endif

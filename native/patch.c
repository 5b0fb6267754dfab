/*
 * Laying shared memory over parts of regions, and taking it off. On the caller's thread, never in a handler, with signals masked; pf__patched in a handler too.
 *
 * Laying memory over a region takes the place of mappings that threads may be touching: the pages are owned meanwhile, so whoever touches one waits, and each
 * step leaves them inaccessible until the last. Which patch a page is under changes only while the page is owned by who changes it; lists that were replaced
 * are freed once nobody who might be looking at them is left inside the region.
 */
#include "patch.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define STUCK_NS 20000000ULL /* how long a page that is held for a copy is waited for while others are ours */
#define QUIET_NS 2000000ULL /* how long a change of patches waits for the region to be empty of others */

bool pf__patched(const pf_region_t *region, uint64_t page, uint8_t **bytes) {
  const patch_t *patch = patch_at(region, page);
  if (patch != NULL && bytes != NULL) {
    *bytes = patch->object->ours + patch->at + ((page - patch->first) << region->page_shift);
  }
  return patch != NULL;
}

/* --- owning what is laid over ---------------------------------------------------------------------------------------------- */

static bool is_pinned(pf_region_t *region, uint64_t page) {
  pf_lock(&region->pin_lock);
  bool pinned = region->pins != NULL && region->pins[page] >> 16 != 0;
  pf_unlock(&region->pin_lock);
  return pinned;
}

/* ABSENT or FAILED → EVICTING. 1: it is ours; 0: look again. */
static int take_idle(pf_region_t *region, uint64_t page, uint8_t seen) {
  uint64_t one = page;
  if (!atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~(PF_STATE | PF_ZEROED)) | PF_EVICTING))) {
    return 0;
  }
  pf_block_enter(region, page);
  if ((seen & PF_STATE) == PF_FAILED) {
    if (seen & PF_ZEROED) {
      pf_pages_drop(region, &one, 1);
    }
    atomic_fetch_sub(&region->counters.failed_pages, 1);
  }
  return 1;
}

/* 1: the page is EVICTING, for us; 0: look again; -EAGAIN: somebody holds it, briefly; -EBUSY, -EEXIST. */
static int take_page(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  unsigned state = seen & PF_STATE;
  if (seen & PF_PINNED) {
    return is_pinned(region, page) ? -EBUSY : -EAGAIN;
  }
  if (state == PF_ABSENT || state == PF_FAILED) {
    return take_idle(region, page, seen);
  }
  if (state == PF_PRESENT || state == PF_STAGED) {
    bool freed = pf_region_release(region, page, page + 1) != 0;
    return !freed && (pf_marks(region, page) & (PF_M_DIRTY | PF_M_STICKY)) ? -EEXIST : 0;
  }
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + region->timeout_ns};
  pf_why_t why;
  return pf_page_wait(region, page, &wait, &why) ? 0 : -EBUSY;
}

static void settle_pages(pf_region_t *region, uint64_t first, uint64_t end) {
  for (uint64_t page = first; page < end; page++) {
    pf_page_settle(region, page, PF_ABSENT);
  }
}

static void some(void *context, uint64_t first, uint64_t end) { *(bool *)context = end > first; }

/* All pages of the range are EVICTING, for us, or none. 0; -EEXIST: some are dirty; -EBUSY: some are pinned, or are not let go. */
static int take_pages(pf_region_t *region, uint64_t first, uint64_t end) {
  bool dirty = false;
  uint64_t deadline = pf_now_ns() + region->timeout_ns, stuck_until = 0;
  int taken = pf_region_dirty(region, first, end, some, &dirty);
  if (taken != 0 || dirty) {
    return taken != 0 ? taken : -EEXIST;
  }
  pf_region_release(region, first, end);
  for (uint64_t page = first; page < end;) {
    uint64_t now = pf_now_ns();
    taken = now > deadline ? -EBUSY : take_page(region, page);
    if (taken == -EAGAIN && (stuck_until == 0 || now < stuck_until)) {
      stuck_until = stuck_until == 0 ? now + STUCK_NS : stuck_until;
      pf_sleep_until(now + 20000ULL);
      continue;
    }
    stuck_until = 0;
    if (taken < 0) { /* -EAGAIN: it may be a flush that holds this page and waits for one of ours */
      settle_pages(region, first, page);
      page = first;
    }
    if (taken < 0 && taken != -EAGAIN) {
      return taken;
    }
    page += taken > 0;
  }
  return 0;
}

/* --- laying it over -------------------------------------------------------------------------------------------------------- */

/* How pages of the region are told to the kernel, those under patches and those that are mapped twice (`shared`) and the others. */
static pf_own_t own_for(const pf_region_t *region, bool shared) {
  return pf_own_which(region->sealed || (region->writable && (shared || region->track == PF_TRACK_FAULT)), region->served);
}

/* Whether the kernel can do what patches need. 0 or -EOPNOTSUPP. */
static int can_patch(const pf_region_t *region) {
  if (region->backend == PF_BACKEND_MPROTECT) {
    return 0;
  }
  pf_own_t which = own_for(region, true);
  uint64_t needed = PF_OWN_CAN_MINOR | (which == PF_OWN_SYNC ? PF_OWN_CAN_PROTECT_SHARED : 0);
  int err = region->served ? pf_service_start(which) : pf_own_uffd_start(which);
  return err != 0 ? err : (pf_own_uffd_features(which) & needed) == needed ? 0 : -EOPNOTSUPP;
}

/* What is mapped there, inaccessible, is registered and opened to faults. */
static int arm(pf_region_t *region, uint8_t *addr, size_t len, bool shared) {
  if (region->backend == PF_BACKEND_MPROTECT) {
    return 0;
  }
  bool protects = region->writable || region->sealed;
  int err = pf_own_uffd_register(own_for(region, shared), addr, len, (protects ? PF_OWN_PROTECT : 0) | (shared ? PF_OWN_MINOR : 0));
  return err != 0 ? err : pf_mem_protect(addr, len, protects ? PROT_READ | PROT_WRITE : PROT_READ);
}

/* The region's own memory. */
static int lay_own(pf_region_t *region, uint64_t first, uint64_t end) {
  uint8_t *addr = pf_page_address(region, first);
  size_t len = (size_t)(end - first) << region->page_shift;
  bool twice = region->backend != PF_BACKEND_SIGNAL;
  int err = twice ? pf_mem_replace_by_twin(addr, len, region->ours + (first << region->page_shift)) : pf_mem_replace(addr, len, -1, 0, region->name);
  if (err == 0 && !twice && !region->foreign && region->length > PF_MEM_DUMP_MAX) {
    pf_mem_no_dump(addr, len); /* as its neighbours, with which it is one mapping */
  }
  return err != 0 ? err : arm(region, addr, len, twice);
}

/* Maps what a list says belongs to the pages, which are EVICTING. On failure some may be inaccessible. */
static int lay(pf_region_t *region, const struct pf_patches *list, uint64_t first, uint64_t end) {
  int err = 0;
  for (uint64_t page = first, stop; err == 0 && page < end; page = stop) {
    const patch_t *patch = patch_from(list, page);
    if (patch == NULL || patch->first > page) {
      stop = patch == NULL || patch->first > end ? end : patch->first;
      err = lay_own(region, page, stop);
      continue;
    }
    stop = patch->end < end ? patch->end : end;
    uint8_t *addr = pf_page_address(region, page);
    size_t len = (size_t)(stop - page) << region->page_shift;
    err = pf_mem_replace(addr, len, patch->object->fd, patch->at + ((page - patch->first) << region->page_shift), region->name);
    err = err != 0 ? err : arm(region, addr, len, true);
  }
  return err;
}

/* --- lists ----------------------------------------------------------------------------------------------------------------- */

static void add(struct pf_patches *list, const patch_t *patch, uint64_t first, uint64_t end, unsigned shift) {
  if (first < end) {
    list->list[list->count++] = (patch_t){.first = first, .end = end, .object = patch->object, .at = patch->at + ((first - patch->first) << shift)};
    pf__object_hold(patch->object);
  }
}

/* A list with `added` (object NULL: nothing) in the place of what lies under it. NULL: no memory. */
static struct pf_patches *replaced(const struct pf_patches *old, const patch_t *added, unsigned shift) {
  size_t count = old == NULL ? 0 : old->count, i = 0;
  struct pf_patches *list = malloc(sizeof *list + (count + 2) * sizeof *list->list);
  if (list == NULL) {
    return NULL;
  }
  *list = (struct pf_patches){0};
  for (; i < count && old->list[i].first < added->first; i++) {
    const patch_t *one = &old->list[i];
    add(list, one, one->first, one->end < added->first ? one->end : added->first, shift);
  }
  if (added->object != NULL) {
    add(list, added, added->first, added->end, shift);
  }
  for (i = i > 0 ? i - 1 : 0; i < count; i++) { /* the last of those may reach over it */
    const patch_t *one = &old->list[i];
    add(list, one, one->first > added->end ? one->first : added->end, one->end, shift);
  }
  return list;
}

static void free_list(struct pf_patches *list) {
  for (size_t i = 0; list != NULL && i < list->count; i++) {
    pf_object_drop(list->list[i].object);
  }
  free(list);
}

static void free_retired(pf_region_t *region) {
  while (region->retired != NULL) {
    struct pf_patches *list = region->retired;
    region->retired = list->older;
    free_list(list);
  }
}

/* `list` counts from here on. What it replaces is freed as soon as nobody else is inside, who could be looking at it: now, or by a later change. */
static void exchange(pf_region_t *region, struct pf_patches *list) {
  struct pf_patches *old = atomic_load(&region->patches);
  if (list->count == 0) { /* nobody need look */
    free_list(list);
    list = NULL;
  }
  atomic_store(&region->patches, list);
  if (old != NULL) {
    old->older = region->retired;
    region->retired = old;
  }
}

static void free_unseen(pf_region_t *region) {
  uint64_t deadline = pf_now_ns() + QUIET_NS;
  while (region->retired != NULL) {
    if (atomic_load(&region->users) <= 1) { /* the caller */
      free_retired(region);
    } else if (pf_now_ns() > deadline) {
      return;
    } else {
      pf_sleep_until(pf_now_ns() + 20000ULL);
    }
  }
}

/* The pages are EVICTING: gives them what the list says, and lets them go. Takes the list over. On failure it is as it was. */
static int change(pf_region_t *region, struct pf_patches *list, uint64_t first, uint64_t end) {
  atomic_store(&region->remapped_at, pf_now_ns() + 60000000000ULL); /* a touch may find the memory inaccessible, for less than this */
  int err = lay(region, list, first, end);
  if (err == 0) {
    exchange(region, list);
  } else {
    lay(region, atomic_load(&region->patches), first, end);
    free_list(list);
  }
  atomic_store(&region->remapped_at, pf_now_ns());
  settle_pages(region, first, end);
  return err;
}

/* --- patches --------------------------------------------------------------------------------------------------------------- */

int pf_region_patch(pf_region_t *region, uint64_t page, uint64_t count, pf_object_t *object, uint64_t offset) {
  const patch_t added = {.first = page, .end = page + count, .object = object, .at = offset};
  int err = can_patch(region);
  if (err != 0) {
    return err;
  }
  pf_lock(&region->patch_lock);
  err = take_pages(region, added.first, added.end);
  if (err == 0) {
    struct pf_patches *list = replaced(atomic_load(&region->patches), &added, region->page_shift);
    if (list == NULL) {
      settle_pages(region, added.first, added.end);
      err = -ENOMEM;
    } else {
      err = change(region, list, added.first, added.end);
      free_unseen(region);
    }
  }
  pf_unlock(&region->patch_lock);
  return err;
}

void pf_region_unpatch(pf_region_t *region) {
  pf_lock(&region->patch_lock);
  const struct pf_patches *seen = atomic_load(&region->patches);
  for (size_t i = seen == NULL ? 0 : seen->count; i-- > 0;) { /* from the end: what lies before keeps its place in the list */
    patch_t gone = atomic_load(&region->patches)->list[i];
    gone.object = NULL;
    if (take_pages(region, gone.first, gone.end) != 0) {
      continue;
    }
    struct pf_patches *list = replaced(atomic_load(&region->patches), &gone, region->page_shift);
    if (list == NULL) {
      settle_pages(region, gone.first, gone.end);
      break;
    }
    change(region, list, gone.first, gone.end);
  }
  free_unseen(region);
  pf_unlock(&region->patch_lock);
}

void pf_patches_drain(pf_region_t *region) {
  const struct pf_patches *list = atomic_load(&region->patches);
  for (size_t i = 0; list != NULL && i < list->count; i++) {
    lay_own(region, list->list[i].first, list->list[i].end);
  }
  pf_patches_free(region);
}

void pf_patches_free(pf_region_t *region) {
  free_list(atomic_exchange(&region->patches, NULL));
  free_retired(region);
}

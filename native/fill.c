/*
 * Filling shared memory: by whichever region touches a page first, in whichever process. The words that say how far that is are told of in object.c. In a
 * handler too.
 */
#include "patch.h"

#include <errno.h>
#include <string.h>

/* The system's pages of the object that a page of the region is. */
static uint64_t words_of(const pf_region_t *region, const patch_t *patch, uint64_t page, uint64_t *count) {
  *count = pf_page_size(region) / pf_os_page_size();
  return patch->at / pf_os_page_size() + (page - patch->first) * *count;
}

/* Who fills within this process: the page, because a region may have one page of the object in two places. */
static uint64_t token_of(const pf_region_t *region, uint64_t page) { return (uint64_t)(uintptr_t)&region->states[page]; }

static void drop_claim(pf_object_t *object, uint64_t i, uint64_t token) {
  uint64_t mine = token;
  if (atomic_load(&object->claims[i]) == token) {
    uint32_t number = object->number;
    atomic_compare_exchange_strong(&object->words[i], &number, 0);
    atomic_compare_exchange_strong(&object->claims[i], &mine, 0);
  }
}

typedef enum { HELD, TAKEN, BUSY } claimed_t;

/* HELD: it is ours to fill. TAKEN: it is filled. BUSY: somebody else's. `impatient`: another process has had its time. */
static claimed_t claim_word(pf_object_t *object, uint64_t i, uint64_t token, bool impatient) {
  uint64_t none = 0;
  uint32_t seen = atomic_load(&object->words[i]);
  if (seen == FILLED) {
    drop_claim(object, i, token);
    return TAKEN;
  }
  if (atomic_load(&object->claims[i]) != token && !atomic_compare_exchange_strong(&object->claims[i], &none, token)) {
    return BUSY;
  }
  seen = atomic_load(&object->words[i]);
  /* Our number without a claim: somebody scribbles. */
  bool can = seen == 0 || seen == object->number || (seen != FILLED && (impatient || pf__object_is_gone(object, seen)));
  if (can && atomic_compare_exchange_strong(&object->words[i], &seen, object->number)) {
    return HELD;
  }
  drop_claim(object, i, token);
  return atomic_load(&object->words[i]) == FILLED ? TAKEN : BUSY;
}

pf_filling_t pf_patch_claim(pf_region_t *region, uint64_t page, bool impatient) {
  const patch_t *patch = patch_at(region, page);
  uint64_t count, first = words_of(region, patch, page, &count), token = token_of(region, page);
  claimed_t claimed = TAKEN;
  bool mine = false;
  int before = errno;
  for (uint64_t i = first; claimed != BUSY && i < first + count; i++) {
    claimed = claim_word(patch->object, i, token, impatient);
    mine = mine || claimed == HELD;
  }
  errno = before;
  if (claimed == BUSY) {
    pf_patch_unclaim(region, page); /* nothing is held while waiting */
    return PF_BEING_FILLED;
  }
  return mine ? PF_TO_FILL : PF_FILLED;
}

bool pf_patch_goes_on(const pf_region_t *region, uint64_t page) {
  const patch_t *patch = patch_at(region, page);
  if (patch == NULL || patch->first == page) {
    return false;
  }
  uint64_t count, first = words_of(region, patch, page, &count);
  for (uint64_t i = first; i < first + count; i++) {
    if (atomic_load_explicit(&patch->object->words[i], memory_order_acquire) != FILLED) {
      return false;
    }
  }
  return true;
}

/* One of the system's pages. False: it is not filled, because others took it over or scribble. */
static bool fill_word(pf_object_t *object, uint64_t i, uint64_t token, const uint8_t *from) {
  size_t size = pf_os_page_size();
  uint32_t number = object->number;
  claimed_t claimed = claim_word(object, i, token, false);
  if (claimed != HELD) {
    return claimed == TAKEN;
  }
  if (from != NULL) {
    memcpy(object->ours + i * size, from, size);
  } else {
    memset(object->ours + i * size, 0, size);
  }
  bool filled = atomic_compare_exchange_strong(&object->words[i], &number, FILLED) || number == FILLED;
  drop_claim(object, i, token);
  return filled;
}

bool pf_patch_fill(pf_region_t *region, uint64_t page, const uint8_t *from) {
  const patch_t *patch = patch_at(region, page);
  uint64_t count, first = words_of(region, patch, page, &count), token = token_of(region, page);
  size_t size = pf_os_page_size();
  bool filled = true;
  int before = errno;
  for (uint64_t i = 0; i < count; i++) {
    filled = fill_word(patch->object, first + i, token, from == NULL ? NULL : from + i * size) && filled;
  }
  errno = before;
  if (!filled) {
    pf_patch_unclaim(region, page);
  }
  return filled;
}

void pf_patch_unclaim(pf_region_t *region, uint64_t page) {
  const patch_t *patch = atomic_load_explicit(&region->patches, memory_order_relaxed) == NULL ? NULL : patch_at(region, page);
  if (patch == NULL) {
    return;
  }
  uint64_t count, first = words_of(region, patch, page, &count), token = token_of(region, page);
  for (uint64_t i = first; i < first + count; i++) {
    drop_claim(patch->object, i, token);
  }
}

/* A page that counts as filled and does not exist: somebody punched it out, which is as if zeroes had been written. */
static void bring_back(const volatile uint8_t *at, size_t len) {
  for (size_t done = 0; done < len; done += pf_os_page_size()) {
    (void)at[done]; /* shared memory: a read makes the page */
  }
}

void pf_patch_mend(pf_region_t *region, uint64_t page) { bring_back(pf_ours(region, page), pf_page_size(region)); }

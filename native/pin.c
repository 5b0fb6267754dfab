/*
 * Pins: pages that must stay. A counter for each page, in a table that exists only once something is pinned, and one bit in the state
 * byte that eviction looks at. Changing both together is what `pin_lock` is for; the fault path never takes it.
 */
#include "engine.h"

#include <errno.h>

#define ONE_PIN 0x10000u
#define ONE_COPY 1u
#define MOST 0xffffu

/* pin_lock held. */
static int make_table(pf_region_t *region) {
  if (region->pins != NULL) {
    return 0;
  }
  void *pins;
  int err = pf_mem_reserve(region->page_count * sizeof *region->pins, "pagefault pins", &pins);
  if (err == 0) {
    region->pins = pins;
  }
  return err;
}

/* pin_lock held. True when this was the first of its kind. */
static bool add_one(pf_region_t *region, uint64_t page, uint32_t what) {
  uint32_t before = region->pins[page];
  region->pins[page] = before + what;
  if (before == 0) {
    atomic_fetch_or(&region->states[page], PF_PINNED);
  }
  return what == ONE_PIN ? before >> 16 == 0 : (before & MOST) == 0;
}

/* A page that was invalidated while it was pinned goes now. */
static void drop_stale(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  if ((seen & PF_STATE) != PF_PRESENT || !(seen & PF_STALE) || (seen & PF_PINNED)) {
    return;
  }
  uint8_t next = (uint8_t)((seen & ~(PF_STATE | PF_STALE)) | PF_EVICTING);
  if (atomic_compare_exchange_strong(&region->states[page], &seen, next)) {
    uint64_t one = page;
    if (!pf_pages_drop(region, &one, 1)) {
      pf_page_settle(region, page, PF_PRESENT | PF_STALE);
      return;
    }
    atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
    pf_budget_uncharge(region, 1);
    pf_page_settle(region, page, PF_ABSENT);
  }
}

/* pin_lock held. True when it was the last of its kind. */
static bool remove_one(pf_region_t *region, uint64_t page, uint32_t what) {
  uint32_t after = region->pins[page] - what;
  region->pins[page] = after;
  if (after == 0) {
    atomic_fetch_and(&region->states[page], (uint8_t)~PF_PINNED);
  }
  return what == ONE_PIN ? after >> 16 == 0 : (after & MOST) == 0;
}

int pf_pin_add(pf_region_t *region, uint64_t first, uint64_t end) {
  uint64_t fresh = 0;
  pf_lock(&region->pin_lock);
  int err = make_table(region);
  for (uint64_t page = first; err == 0 && page < end; page++) {
    fresh += region->pins[page] >> 16 == 0; /* what is pinned already does not count twice */
    err = region->pins[page] >> 16 == MOST ? -EOVERFLOW : 0;
  }
  if (err == 0 && region->budget != NULL && !pf_budget_pin(region->budget, (int64_t)(fresh << region->page_shift))) {
    err = -EDQUOT;
  }
  for (uint64_t page = first; err == 0 && page < end; page++) {
    add_one(region, page, ONE_PIN);
  }
  pf_unlock(&region->pin_lock);
  if (err == 0) {
    atomic_fetch_add(&region->counters.pinned_pages, fresh);
  }
  return err;
}

void pf_pin_remove(pf_region_t *region, uint64_t first, uint64_t end) {
  uint64_t last = 0;
  pf_lock(&region->pin_lock);
  for (uint64_t page = first; page < end; page++) {
    last += remove_one(region, page, ONE_PIN);
  }
  pf_unlock(&region->pin_lock);
  atomic_fetch_sub(&region->counters.pinned_pages, last);
  if (region->budget != NULL) {
    pf_budget_pin(region->budget, -(int64_t)(last << region->page_shift));
  }
  for (uint64_t page = first; page < end; page++) {
    drop_stale(region, page);
  }
}

int pf_page_hold(pf_region_t *region, uint64_t page) {
  pf_lock(&region->pin_lock);
  int err = make_table(region);
  if (err == 0 && (region->pins[page] & MOST) == MOST) {
    err = -EOVERFLOW;
  }
  if (err == 0) {
    add_one(region, page, ONE_COPY);
  }
  pf_unlock(&region->pin_lock);
  return err;
}

void pf_page_unhold(pf_region_t *region, uint64_t page) {
  pf_lock(&region->pin_lock);
  remove_one(region, page, ONE_COPY);
  pf_unlock(&region->pin_lock);
  drop_stale(region, page);
}

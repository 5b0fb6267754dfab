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

/* pin_lock held. */
static void add_one(pf_region_t *region, uint64_t page, uint32_t what) {
  if (region->pins[page] == 0) {
    atomic_fetch_or(&region->states[page], PF_PINNED);
  }
  region->pins[page] += what;
}

/* EVICTING, of a writable region. True: its bytes were the store's, and it is closed with them kept; false: it was written, so it is back. */
static bool close_clean(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  if (pf_pages_close(region, &one, 1) == 0) {
    atomic_fetch_and(&region->states[page], (uint8_t)~PF_STALE);
    pf_pages_return(region, &one, 1);
    return false;
  }
  atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  if (pf_marks(region, page) & (PF_M_DIRTY | PF_M_STICKY)) { /* only discarding loses a write: whoever touches it takes it back */
    pf_budget_staged(region, (int64_t)pf_page_size(region));
    pf_pages_keep_staged(region, &one, 1);
    return false;
  }
  return true;
}

/* The kernel refuses to drop it: it is open, with its old bytes. It goes the next time that somebody lets it go. */
static void stay_stale(pf_region_t *region, uint64_t page) {
  pf_state_t *byte = &region->states[page];
  pf_pages_return(region, &page, 1);
  uint8_t seen = atomic_load(byte);
  while ((seen & PF_STATE) == PF_PRESENT && !atomic_compare_exchange_weak(byte, &seen, seen | PF_STALE)) {
  }
}

void pf_page_drop_stale(pf_region_t *region, uint64_t page) {
  uint64_t one = page;
  uint8_t seen = atomic_load(&region->states[page]);
  do {
    if ((seen & PF_STATE) != PF_PRESENT || !(seen & PF_STALE) || (seen & PF_PINNED)) {
      return;
    }
  } while (!atomic_compare_exchange_weak(&region->states[page], &seen, (uint8_t)((seen & ~(PF_STATE | PF_STALE)) | PF_EVICTING)));
  if (region->writable && !(pf_marks(region, page) & PF_M_DISCARD)) {
    if (!close_clean(region, page)) {
      return;
    }
    pf_pages_forget(region, &one, 1);
  } else if (pf_pages_drop(region, &one, 1)) {
    atomic_fetch_sub(&region->counters.resident, pf_page_size(region));
  } else {
    stay_stale(region, page);
    return;
  }
  pf_unmark(region, page, PF_M_OF_MEMORY);
  pf_budget_uncharge(region, 1);
  pf_page_settle(region, page, PF_ABSENT);
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

/* pin_lock held. How many of the pages are not pinned yet; -EOVERFLOW when one is pinned too often. */
static int64_t count_fresh(const pf_region_t *region, uint64_t first, uint64_t end) {
  int64_t fresh = 0;
  for (uint64_t page = first; page < end; page++) {
    uint32_t pins = region->pins[page] >> 16;
    if (pins == MOST) {
      return -EOVERFLOW;
    }
    fresh += pins == 0;
  }
  return fresh;
}

int pf_pin_add(pf_region_t *region, uint64_t first, uint64_t end) {
  pf_lock(&region->pin_lock);
  int err = make_table(region);
  int64_t fresh = err == 0 ? count_fresh(region, first, end) : err;
  if (fresh >= 0 && region->budget != NULL && !pf_budget_pin(region->budget, fresh << region->page_shift)) {
    fresh = -EDQUOT;
  }
  for (uint64_t page = first; fresh >= 0 && page < end; page++) {
    add_one(region, page, ONE_PIN);
  }
  if (fresh > 0) {
    atomic_fetch_add(&region->counters.pinned_pages, (uint64_t)fresh);
  }
  pf_unlock(&region->pin_lock);
  return fresh < 0 ? (int)fresh : 0;
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
    pf_page_drop_stale(region, page);
  }
}

/* pin_lock held. Old bytes that only copies still keep: no new copy may begin. */
static bool is_leaving(const pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  return (seen & PF_STATE) == PF_PRESENT && (seen & PF_STALE) && region->pins[page] >> 16 == 0;
}

int pf_page_hold(pf_region_t *region, uint64_t page) {
  for (uint64_t give_up = pf_now_ns() + region->timeout_ns;;) {
    pf_lock(&region->pin_lock);
    int err = make_table(region);
    if (err == 0 && (region->pins[page] & MOST) == MOST) {
      err = -EOVERFLOW;
    }
    bool wait = err == 0 && is_leaving(region, page);
    if (err == 0 && !wait) {
      add_one(region, page, ONE_COPY);
    }
    pf_unlock(&region->pin_lock);
    if (!wait || pf_now_ns() >= give_up) {
      return wait ? -EAGAIN : err;
    }
    pf_page_drop_stale(region, page);
    pf_sleep_until(pf_now_ns() + 20000ULL); /* a copy of one page */
  }
}

int pf_pages_hold(pf_region_t *region, uint64_t first, uint32_t count) {
  pf_lock(&region->pin_lock);
  int err = make_table(region);
  for (uint32_t i = 0; err == 0 && i < count; i++) {
    err = (region->pins[first + i] & MOST) == MOST ? -EOVERFLOW : 0;
  }
  for (uint32_t i = 0; err == 0 && i < count; i++) {
    add_one(region, first + i, ONE_COPY);
  }
  pf_unlock(&region->pin_lock);
  return err;
}

void pf_pages_unhold(pf_region_t *region, uint64_t first, uint32_t count) {
  pf_lock(&region->pin_lock);
  for (uint32_t i = 0; i < count; i++) {
    remove_one(region, first + i, ONE_COPY);
  }
  pf_unlock(&region->pin_lock);
  for (uint32_t i = 0; i < count; i++) {
    pf_page_drop_stale(region, first + i);
  }
}

bool pf_page_outlive_copies(pf_region_t *region, uint64_t page) {
  for (uint64_t give_up = pf_now_ns() + region->timeout_ns; pf_now_ns() < give_up;) {
    pf_lock(&region->pin_lock);
    bool pinned = region->pins[page] >> 16 != 0;
    bool wait = is_leaving(region, page);
    pf_unlock(&region->pin_lock);
    if (!wait) {
      return pinned;
    }
    pf_page_drop_stale(region, page);
    pf_sleep_until(pf_now_ns() + 20000ULL);
  }
  return true;
}

void pf_page_unhold(pf_region_t *region, uint64_t page) {
  pf_lock(&region->pin_lock);
  remove_one(region, page, ONE_COPY);
  pf_unlock(&region->pin_lock);
  pf_page_drop_stale(region, page);
}

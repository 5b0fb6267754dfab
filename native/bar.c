/*
 * Bars: a page of a served region (service.c) that cannot be had, or not be written, is closed by mprotect, so that the thread that wants it hears of it. A bit for
 * each page says that it was we who closed it. Any thread; pf_page_barred and pf_page_unbar in a handler too.
 *
 * A bar is set on a page by the thread that serves it, without owning it: nothing but the way to it changes. It is taken off by the page's owner only: whoever lays
 * other memory over a part of the region owns the pages, and has it inaccessible until it is registered. Both may happen at once (a page that failed is healed), so
 * that the bit and the protection are changed under a lock: a page that is closed without its bit would be nobody's to open.
 */
#include "engine.h"

#include <sys/mman.h>

static pf_lock_t lock; /* for one system call; signals masked */

int pf_bars_make(pf_region_t *region) {
  void *bits;
  int err = region->served ? pf_mem_reserve(region->page_count / 8 + 1, "pagefault bars", &bits) : 0;
  if (err == 0 && region->served) {
    region->bars = bits;
  }
  return err;
}

static uint8_t bit_of(uint64_t page) { return (uint8_t)(1u << (page & 7)); }

bool pf_page_barred(const pf_region_t *region, uint64_t page) {
  return region->bars != NULL && (atomic_load(&region->bars[page >> 3]) & bit_of(page));
}

bool pf_page_was_barred(const pf_region_t *region) {
  uint64_t lifted = atomic_load(&region->unbarred_at);
  return lifted != 0 && pf_now_ns() - lifted < 10000000000ULL;
}

int pf_page_bar(pf_region_t *region, uint64_t page, bool refused) {
  _Atomic uint8_t *byte = &region->bars[page >> 3];
  pf_lock(&lock);
  atomic_fetch_or(byte, bit_of(page)); /* before anybody can meet it */
  int err = pf_mem_protect(pf_page_address(region, page), pf_page_size(region), refused ? PROT_READ : PROT_NONE);
  if (err != 0) {
    atomic_fetch_and(byte, (uint8_t)~bit_of(page));
  }
  pf_unlock(&lock);
  return err;
}

void pf_page_unbar(pf_region_t *region, uint64_t page) {
  if (!pf_page_barred(region, page)) {
    return;
  }
  bool writable = page << region->page_shift >= region->guarded; /* as region.c mapped it */
  pf_lock(&lock);
  atomic_store(&region->unbarred_at, pf_now_ns()); /* a thread that met it may look for it only now */
  if (pf_mem_protect(pf_page_address(region, page), pf_page_size(region), writable ? PROT_READ | PROT_WRITE : PROT_READ) == 0) {
    atomic_fetch_and(&region->bars[page >> 3], (uint8_t)~bit_of(page));
  }
  pf_unlock(&lock);
}

bool pf_page_lift_bar(pf_region_t *region, uint64_t page) {
  uint8_t seen = atomic_load(&region->states[page]);
  uint64_t one = page;
  switch (pf_page_barred(region, page) ? seen & PF_STATE : PF_FAILED) {
    case PF_FAILED:
      return true; /* until it is healed */
    case PF_PRESENT:
      if (!pf_page_own(region, page)) {
        return false;
      }
      pf_page_unbar(region, page);
      pf_pages_return(region, &one, 1);
      return !pf_page_barred(region, page);
    case PF_ABSENT:
      if (!atomic_compare_exchange_strong(&region->states[page], &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
        return false;
      }
      pf_block_enter(region, page);
      pf_page_unbar(region, page);
      pf_page_settle(region, page, PF_ABSENT);
      return !pf_page_barred(region, page);
    default:
      return false;
  }
}

void pf_bars_free(pf_region_t *region) {
  if (region->bars != NULL) {
    pf_mem_unmap((void *)region->bars, region->page_count / 8 + 1);
    region->bars = NULL;
  }
}

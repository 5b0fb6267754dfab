/*
 * A pager's answers to its orders (queue.c): pages that are brought, writes that are allowed or done, and failures. The pager's own thread; what becomes of an order that
 * is given up is settled here too, on the thread that gives it up.
 */
#include "queue.h"

#include <errno.h>
#include <string.h>

#define INSTALL_TRIES 50

/* --- pages that are brought ------------------------------------------------------------------------------------------------ */

/* Opens the pages; the kernel may be short of memory for a moment. */
static pf_why_t install(pf_region_t *region, uint64_t page, uint32_t count, const uint8_t *from, bool write, bool *again) {
  for (int tries = 1;; tries++) {
    pf_why_t why = pf_pages_install(region, page, count, from, write, again);
    if (why.code != PF_E_NO_MEMORY || tries == INSTALL_TRIES) {
      return why;
    }
    pf_sleep_until(pf_now_ns() + 1000000ULL);
  }
}

/* Before the pages are opened: whoever waited for one may look at the numbers the moment after. */
static void count_load(pf_pager_t *pager, const slot_t *slot, pf_region_t *region, int64_t bytes) {
  pf_counters_t *counters = &region->counters;
  uint64_t now = pf_now_ns();
  atomic_store_explicit(&pager->answered_ns, now, memory_order_relaxed);
  pf_note_load_cost(region, (now - atomic_load_explicit(&slot->asked_ns, memory_order_relaxed)) / slot->count);
  atomic_fetch_add_explicit(&counters->loads, slot->count, memory_order_relaxed);
  atomic_fetch_add_explicit(&counters->bytes_read, bytes > 0 ? (uint64_t)bytes : 0, memory_order_relaxed);
  if (slot->access == PF_ASK_AHEAD) {
    atomic_fetch_add_explicit(&counters->readahead_pages, slot->count, memory_order_relaxed);
  }
}

/* They were not opened after all. */
static void uncount_load(const slot_t *slot, pf_region_t *region, int64_t bytes) {
  atomic_fetch_sub(&region->counters.loads, slot->count);
  atomic_fetch_sub(&region->counters.bytes_read, bytes > 0 ? (uint64_t)bytes : 0);
  if (slot->access == PF_ASK_AHEAD) {
    atomic_fetch_sub(&region->counters.readahead_pages, slot->count);
  }
}

/* --- what becomes of an order ---------------------------------------------------------------------------------------------- */

/* A page that went stale meanwhile is nobody's: whoever waits for it asks again. */
static void fail_page(pf_region_t *region, uint64_t page, pf_why_t why, const char *message, const char *cause) {
  if (!pf_page_fail(region, page, why, message, cause)) {
    pf_pages_unclaim(region, page, 1);
  }
}

/* On the pager's thread: a segment that was closed while it was served is freed by whoever leaves it last. Looked at afterwards, because whoever closes it in between has
 * found us inside; the struct stays, whatever became of the region. */
static void leave_order(pf_region_t *region) {
  pf_region_leave(region);
  if (atomic_load(&region->phase) == PF_PHASE_CLOSED) {
    pf_region_reap();
  }
}

/* The store agreed, or not, to a write: the page is let go. */
static void settle_on_write(const order_t *order, bool agreed) {
  pf_region_t *region = order->region;
  if (agreed) {
    pf_mark(region, order->page, PF_M_DIRTY | PF_M_WRITABLE);
    int err = -ENOMEM;
    for (int tries = 0; err != 0 && tries < INSTALL_TRIES; tries++) {
      err = pf_back_unprotect(region, order->page, 1);
    }
    if (err != 0) {
      pf_unmark(region, order->page, PF_M_WRITABLE); /* the thread asks again */
    }
    atomic_fetch_add_explicit(&region->counters.write_faults, 1, memory_order_relaxed);
  }
  pf_pages_return(region, &order->page, 1);
  if (agreed) {
    pf_pages_wake(region, order->page, 1);
  }
}

static void settle_ticket(const order_t *order, pf_why_t why) {
  order->ticket->why = why;
  atomic_store(&order->ticket->done, 1);
  pf_futex_wake_all(&order->ticket->done);
}

void pf__order_failed(const order_t *order, pf_why_t why, const char *message, const char *cause, bool forgotten) {
  pf_region_t *region = order->region;
  switch (order->access) {
    case PF_ASK_ON_WRITE:
      pf_failure_record(region, order->page, order->access, why, message, cause);
      settle_on_write(order, false);
      return;
    case PF_ASK_WRITE:
    case PF_ASK_SYNC:
      if (!forgotten) {
        pf_failure_record(region, order->page, order->access, why, message, cause);
      }
      if (order->ticket != NULL) {
        settle_ticket(order, why);
      } else {
        pf_pages_written_back(region, order->page, order->count, why);
      }
      return;
    default:
      if (forgotten || (order->access == PF_ASK_AHEAD && why.code != PF_E_GONE)) { /* nobody asked for it: whoever does gets an answer of its own */
        pf_pages_unclaim(region, order->page, order->count);
        return;
      }
      for (uint32_t i = 0; i < order->count; i++) {
        fail_page(region, order->page + i, why, message, cause);
      }
  }
}

/* FINISHING, without a page. */
static void finish_failed(pf_pager_t *pager, slot_t *slot, pf_why_t why, const char *message, const char *cause) {
  order_t order = order_in(slot);
  atomic_store_explicit(&pager->answered_ns, pf_now_ns(), memory_order_relaxed);
  pf__order_failed(&order, why, message, cause, false);
  leave_order(order.region);
  pf__slot_free(pager, slot);
}

/* FINISHING, of an order that brings no page. */
static void finish_done(pf_pager_t *pager, slot_t *slot) {
  order_t order = order_in(slot);
  atomic_store_explicit(&pager->answered_ns, pf_now_ns(), memory_order_relaxed);
  if (order.access == PF_ASK_ON_WRITE) {
    settle_on_write(&order, true);
  } else if (order.ticket != NULL) {
    settle_ticket(&order, (pf_why_t){0});
  } else {
    pf_pages_written_back(order.region, order.page, order.count, (pf_why_t){0});
  }
  leave_order(order.region);
  pf__slot_free(pager, slot);
}

/* --- answering ------------------------------------------------------------------------------------------------------------- */

/* FINISHING → TAKEN, by the pager's thread; whoever wanted to take it away meanwhile was not heard. */
static void take_again(pf_pager_t *pager, slot_t *slot, uint64_t word) {
  pf_region_t *region = slot->region;
  atomic_fetch_add(&region->users, 1);
  atomic_store(&slot->word, (word & ~7ULL) | TAKEN);
  pf__queue_look_again(pager, region);
  pf_region_leave(region);
}

static int complete(pf_pager_t *pager, uint32_t index, int64_t bytes) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (!move_slot(slot, TAKEN, FINISHING, &word)) {
    if ((word & 7) == ABANDONED) {
      pf__slot_free(pager, slot);
    }
    return 0;
  }
  pf_region_t *region = slot->region;
  uint64_t page = slot->page;
  uint32_t count = slot->count;
  size_t whole = (size_t)count << region->page_shift;
  const uint8_t *from = NULL;
  if (slot->access >= PF_ASK_ON_WRITE) {
    finish_done(pager, slot);
    return 0;
  }
  if (bytes > (int64_t)whole) {
    finish_failed(pager, slot, (pf_why_t){.code = PF_E_LONG}, NULL, NULL);
    return 0;
  }
  if (bytes >= 0) {
    if (pf_pager_buffer(pager, index, whole) == NULL) { /* never zeroes instead */
      finish_failed(pager, slot, (pf_why_t){.code = PF_E_SYSTEM}, "the page was answered without a buffer", NULL);
      return 0;
    }
    memset(slot->bytes + bytes, 0, whole - (size_t)bytes);
    from = slot->bytes;
  }
  bool again;
  count_load(pager, slot, region, bytes);
  pf_why_t why = install(region, page, count, from, slot->access == PF_ASK_READ_TO_WRITE, &again);
  bool together = count > 1 && (again || why.code != PF_OK);
  if (together) { /* nobody asked for them: whoever needs one asks for it alone */
    uncount_load(slot, region, bytes);
    pf_pages_unclaim(region, page, count);
  } else if (again) {
    uncount_load(slot, region, bytes);
    take_again(pager, slot, word);
    bool given_up = pf_pager_given_up(pager, index);
    if (given_up) { /* its region closed, or the pager was ended, while nobody could take this slot away */
      pf__slot_free(pager, slot);
    }
    return !given_up;
  } else if (why.code != PF_OK) {
    uncount_load(slot, region, bytes);
    fail_page(region, page, why, NULL, NULL);
  }
  leave_order(region);
  pf__slot_free(pager, slot);
  return 0;
}

int pf_pager_complete(pf_pager_t *pager, uint32_t index, int64_t bytes) {
  pf_region_t *region = pager->slots[index].region; /* its memory is valid whatever became of the slot */
  if (region == NULL || region->budget == NULL) {
    return complete(pager, index, bytes); /* takes no lock: two system calls less on every page */
  }
  sigset_t before;
  pf_mask_signals(&before);
  int again = complete(pager, index, bytes);
  pf_restore_signals(&before);
  return again;
}

void pf_pager_fail(pf_pager_t *pager, uint32_t index, pf_why_t why, const char *message, const char *cause, bool retire_buffer) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (retire_buffer) {
    slot->bytes = NULL;
    slot->bytes_len = 0;
  }
  if (!move_slot(slot, TAKEN, FINISHING, &word)) {
    if ((word & 7) == ABANDONED) {
      pf__slot_free(pager, slot);
    }
    return;
  }
  finish_failed(pager, slot, why, message, cause);
}

void pf_pager_count_retry(pf_pager_t *pager, uint32_t index) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (move_slot(slot, TAKEN, FINISHING, &word)) {
    atomic_fetch_add(&slot->region->counters.retries, 1);
    bool reads = slot->access <= PF_ASK_AHEAD;
    atomic_fetch_add(reads ? &slot->region->counters.store_reads : &slot->region->counters.store_writes, slot->access == PF_ASK_ON_WRITE || slot->access == PF_ASK_SYNC ? 0 : 1);
    take_again(pager, slot, word);
  }
}

bool pf_pager_given_up(const pf_pager_t *pager, uint32_t index) { return (atomic_load(&pager->slots[index].word) & 7) == ABANDONED; }

int64_t pf_pager_fetch(pf_pager_t *pager, uint32_t index) {
  slot_t *slot = &pager->slots[index];
  uint64_t word = atomic_load(&slot->word);
  if (slot->access != PF_ASK_WRITE || !move_slot(slot, TAKEN, FINISHING, &word)) { /* FINISHING: nobody gives the pages away while they are copied */
    return -1;
  }
  pf_region_t *region = slot->region;
  size_t len = pf_stored_bytes(region, slot->page, slot->count);
  bool fits = slot->bytes_len >= len;
  if (fits) { /* a flush's pages are open and held, eviction's are closed */
    memcpy(slot->bytes, slot->ticket != NULL ? pf_page_bytes(region, slot->page) : pf_ours(region, slot->page), len);
  }
  take_again(pager, slot, word);
  return fits ? (int64_t)len : -2;
}

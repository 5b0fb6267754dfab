/*
 * Orders that are taken away from a pager (queue.c): at a waiter's deadline, when the segment closes, when the pager ends; and a look at what a pager has. Any thread,
 * in a handler too.
 */
#include "queue.h"

#include <string.h>

/* Takes the slot away; then what its order was about is the caller's, who also leaves the region. `means` says whether it is the one meant (NULL: any). An order
 * that the store takes at this very moment is taken from the store: whoever ends a pager or a segment looks at each slot once. */
static bool abandon(slot_t *slot, bool (*means)(const order_t *order, const void *what), const void *what, order_t *out) {
  uint64_t word = atomic_load(&slot->word); /* first: if it is still this one in the end, what was read in between belongs together */
  while ((word & 7) == ASKED || (word & 7) == TAKEN) {
    *out = order_in(slot);
    if (out->region == NULL || (means != NULL && !means(out, what))) {
      return false;
    }
    if (move_slot(slot, word & 7, ABANDONED, &word)) {
      return true;
    }
  }
  return false;
}

/* Its owner is this order: a flush's pages are their own. */
static bool owns_page(const order_t *order, const void *what) {
  const order_t *wanted = what;
  return order->region == wanted->region && order->ticket == NULL && wanted->page - order->page < order->count;
}

/* --- looking --------------------------------------------------------------------------------------------------------------- */

static void note_oldest(uint64_t *oldest, uint64_t since) { *oldest = *oldest == 0 || since < *oldest ? since : *oldest; }

void pf_pager_look(const pf_region_t *region, uint64_t page, pf_pager_seen_t *out) {
  const pf_pager_t *pager = region->source.pager;
  const order_t wanted = {.region = (pf_region_t *)(uintptr_t)region, .page = page};
  *out = (pf_pager_seen_t){.answered_ns = atomic_load_explicit(&pager->answered_ns, memory_order_relaxed)};
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    const slot_t *slot = &pager->slots[i];
    unsigned phase = atomic_load(&slot->word) & 7;
    if (phase != ASKED && phase != TAKEN) {
      continue;
    }
    bool taken = phase == TAKEN;
    uint64_t since = atomic_load_explicit(taken ? &slot->taken_ns : &slot->asked_ns, memory_order_relaxed);
    order_t order = order_in(slot);
    note_oldest(taken ? &out->oldest_taken_ns : &out->oldest_waiting_ns, since);
    *(taken ? &out->orders_taken : &out->orders_waiting) += 1;
    if (owns_page(&order, &wanted)) {
      out->asked = true;
      out->taken = taken;
      out->since_ns = since;
      out->access = order.access;
    }
  }
}

bool pf_pager_has(pf_region_t *region, uint64_t page) {
  const order_t wanted = {.region = region, .page = page};
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    const slot_t *slot = &region->source.pager->slots[i];
    unsigned phase = atomic_load(&slot->word) & 7;
    order_t order = order_in(slot);
    if ((phase == ASKED || phase == TAKEN) && owns_page(&order, &wanted)) {
      return true;
    }
  }
  return false;
}

/* --- giving up ------------------------------------------------------------------------------------------------------------- */

bool pf_pager_abandon(pf_region_t *region, uint64_t page) {
  pf_pager_t *pager = region->source.pager;
  const order_t wanted = {.region = region, .page = page};
  order_t order;
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    if (abandon(&pager->slots[i], owns_page, &wanted, &order)) {
      pf__order_failed(&order, (pf_why_t){.code = PF_E_TIMEOUT}, NULL, NULL, false);
      pf_region_leave(region);
      return true;
    }
  }
  return false;
}

static bool has_ticket(const order_t *order, const void *ticket) { return order->ticket == ticket; }

/* A flush's thread gives up on its order. False: it is being answered. */
static bool abandon_ticket(pf_pager_t *pager, const pf_ticket_t *ticket) {
  order_t order;
  for (size_t i = FIRST_WRITE_SLOT; i < PF_PAGER_SLOTS; i++) {
    if (abandon(&pager->slots[i], has_ticket, ticket, &order)) {
      pf_region_leave(order.region);
      return true;
    }
  }
  return false;
}

void pf_pager_await(pf_region_t *region, pf_ticket_t *ticket, pf_wait_t *wait) {
  uint64_t deadline = wait->deadline_ns + PF_PAGER_GRACE_NS;
  while (atomic_load(&ticket->done) == 0) {
    uint64_t now = pf_now_ns();
    bool cancelled = wait->cancel != NULL && atomic_load(wait->cancel) != 0;
    if ((cancelled || now >= deadline) && abandon_ticket(region->source.pager, ticket)) {
      ticket->why = (pf_why_t){.code = cancelled ? PF_E_ABORTED : PF_E_TIMEOUT};
      return;
    }
    pf_futex_wait(&ticket->done, 0, now + (cancelled || now >= deadline ? 1000000ULL : 10000000ULL));
  }
}

static bool is_of(const order_t *order, const void *region) { return order->region == region; }

void pf_pager_forget(pf_region_t *region) {
  pf_pager_t *pager = region->source.pager;
  order_t order;
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    if (abandon(&pager->slots[i], is_of, region, &order)) {
      pf__order_failed(&order, (pf_why_t){.code = PF_E_CLOSED}, NULL, NULL, true);
      pf_region_leave(region);
    }
  }
}

void pf_pager_kill(pf_pager_t *pager, const char *reason) {
  if (reason != NULL && atomic_load(&pager->dead) == 0) {
    strncpy(pager->reason, reason, sizeof pager->reason - 1);
  }
  atomic_store(&pager->dead, 1);
  order_t order;
  for (size_t i = 0; i < PF_PAGER_SLOTS; i++) {
    if (abandon(&pager->slots[i], NULL, NULL, &order)) {
      pf__order_failed(&order, (pf_why_t){.code = PF_E_GONE}, pager->reason, NULL, false);
      pf_region_leave(order.region);
    }
  }
  atomic_fetch_add(&pager->freed, 1);
  pf_futex_wake_all(&pager->freed);
}

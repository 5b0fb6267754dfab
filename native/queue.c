/*
 * The hand-off between threads that need a page and the thread whose JavaScript brings it (a pager). A fixed number of slots:
 *
 *     FREE ──▶ ASKED ──▶ TAKEN ──▶ FINISHING ──▶ FREE        pf_pager_ask, pf_pager_next, pf_pager_complete or _fail
 *                │          │
 *                └──────────┴──▶ ABANDONED ──▶ FREE          a waiter's deadline, the segment's closing, the pager's death
 *
 * Phase and generation share one word, so that a slot that was used again in between cannot be mistaken. Whoever moves a slot out of
 * ASKED or TAKEN owns the page (it is LOADING) and leaves the region.
 *
 * Asked slots are pushed on a stack that the pager takes as a whole; what somebody waits for goes before what is asked for ahead. A page that is asked for ahead may get
 * somebody who waits while it waits itself (pf_pager_hurry): the slot remembers that, by its generation, and the pager hears of it as of one more order. The event descriptor is written only when the pager sleeps. The pager
 * yields a few times before it does: on one CPU the thread it has just woken runs, and often needs the next page at once. A stopped thread
 * moves a sleeping pager to its own CPU, because waking an idle one costs ten times the hand-off.
 */
#include "queue.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#define YIELDS 3
#define AHEAD_SLOTS (PF_PAGER_SLOTS / 2) /* the others are kept for pages that somebody waits for */
#define PASSED_MAX 8 /* orders that somebody waits for, before an older one ahead */

/* --- asking ---------------------------------------------------------------------------------------------------------------- */

typedef struct {
  uint64_t page;
  uint32_t count, access;
  pf_ticket_t *ticket;
  uint64_t deadline_ns;
} asking_t;

/* A free slot made ASKED and filled in, not yet on the stack; NONE when there is none among [first, end). */
static uint32_t claim_slot(pf_pager_t *pager, uint32_t first, uint32_t end, pf_region_t *region, const asking_t *asking) {
  for (uint32_t i = first; i < end; i++) {
    slot_t *slot = &pager->slots[i];
    uint64_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);
    if (!move_slot(slot, FREE, FINISHING, &word)) {
      continue;
    }
    slot->region = region;
    slot->region_id = atomic_load(&region->id);
    slot->page = asking->page;
    slot->count = asking->count;
    slot->access = asking->access;
    slot->ticket = asking->ticket;
    slot->deadline_ns = asking->deadline_ns;
    atomic_store_explicit(&slot->asked_ns, pf_now_ns(), memory_order_relaxed);
    atomic_fetch_add(&region->users, 1);
    atomic_store(&slot->word, (word & ~7ULL) | ASKED);
    return i;
  }
  return NONE;
}

/* A write of some of these pages that was given up, and that the store may still be at: what it writes late must not undo what is written now. */
static bool is_written_late(const pf_pager_t *pager, const pf_region_t *region, const asking_t *asking) {
  for (uint32_t i = FIRST_WRITE_SLOT; asking->access == PF_ASK_WRITE && i < PF_PAGER_SLOTS; i++) {
    const slot_t *slot = &pager->slots[i];
    if ((atomic_load(&slot->word) & 7) == ABANDONED && slot->access == PF_ASK_WRITE && slot->region_id == atomic_load(&region->id) &&
        slot->page < asking->page + asking->count && asking->page < slot->page + slot->count) {
      return true;
    }
  }
  return false;
}

static void push(pf_pager_t *pager, uint32_t index) {
  uint32_t head = atomic_load_explicit(&pager->stack, memory_order_relaxed);
  do {
    pager->slots[index].next = head == 0 ? NONE : head - 1;
  } while (!atomic_compare_exchange_weak(&pager->stack, &head, index + 1));
}

/* Moves a sleeping pager to this CPU. */
static void attract(pf_pager_t *pager) {
  int cpu = sched_getcpu();
  if (cpu < 0 || atomic_load_explicit(&pager->bound_cpu, memory_order_relaxed) == cpu) {
    return;
  }
  cpu_set_t here;
  CPU_ZERO(&here);
  CPU_SET(cpu, &here);
  if (sched_setaffinity(pager->tid, sizeof here, &here) == 0) {
    atomic_store_explicit(&pager->bound_cpu, cpu, memory_order_relaxed);
  }
}

static void wake(pf_pager_t *pager, bool stopped) {
  if (stopped) {
    atomic_fetch_add_explicit(&pager->served, 1, memory_order_relaxed);
  }
  if (atomic_exchange(&pager->asleep, 0) != 0) {
    if (stopped) {
      attract(pager);
    }
    uint64_t one = 1;
    while (write(pager->event_fd, &one, sizeof one) < 0 && errno == EINTR) {
    }
  }
}

void pf__queue_look_again(pf_pager_t *pager, pf_region_t *region) {
  if (pf_pager_is_dead(pager)) {
    pf_pager_kill(pager, NULL);
  }
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    pf_pager_forget(region);
  }
}

/* Waits for a slot, and until the store has let go of the pages. */
static bool ask(pf_region_t *region, uint32_t first, const asking_t *asking, pf_wait_t *wait, pf_why_t *why) {
  pf_pager_t *pager = region->source.pager;
  for (;;) {
    if (pf_pager_is_dead(pager)) {
      *why = (pf_why_t){.code = PF_E_GONE};
      return false;
    }
    uint32_t seen = atomic_load(&pager->freed);
    uint32_t index = is_written_late(pager, region, asking) ? NONE : claim_slot(pager, first, PF_PAGER_SLOTS, region, asking);
    if (index != NONE) {
      push(pager, index);
      wake(pager, !wait->background);
      pf__queue_look_again(pager, region);
      return true;
    }
    uint64_t now = pf_now_ns();
    if (now >= wait->deadline_ns) {
      *why = (pf_why_t){.code = PF_E_TIMEOUT};
      return false;
    }
    if (pf_must_stop(region, wait, why)) {
      return false;
    }
    pf_note_doing(wait, PF_DOES_ASK);
    atomic_fetch_add(&pager->waiters, 1);
    pf_futex_wait(&pager->freed, seen, now + 10000000ULL);
    atomic_fetch_sub(&pager->waiters, 1);
    if (pf_exit_begun()) {
      pf_exit_check();
    }
  }
}

bool pf_pager_ask(pf_region_t *region, uint64_t page, uint32_t access, pf_wait_t *wait, pf_why_t *why) {
  const asking_t asking = {.page = page, .count = 1, .access = access, .deadline_ns = wait->deadline_ns};
  return ask(region, 0, &asking, wait, why);
}

bool pf_pager_ask_on_write(pf_region_t *region, uint64_t page, pf_wait_t *wait, pf_why_t *why) {
  return pf_pager_ask(region, page, PF_ASK_ON_WRITE, wait, why);
}

bool pf_pager_ask_write(pf_region_t *region, uint64_t page, uint32_t count, pf_ticket_t *ticket, pf_wait_t *wait, pf_why_t *why) {
  const asking_t asking = {
      .page = page,
      .count = count,
      .access = count == 0 ? PF_ASK_SYNC : PF_ASK_WRITE,
      .ticket = ticket,
      .deadline_ns = wait->deadline_ns,
  };
  return ask(region, FIRST_WRITE_SLOT, &asking, wait, why);
}

/* Asks if a slot is free. */
static bool ask_now(pf_region_t *region, uint32_t first, uint32_t end, const asking_t *asking) {
  pf_pager_t *pager = region->source.pager;
  bool none = pf_pager_is_dead(pager) || is_written_late(pager, region, asking);
  uint32_t index = none ? NONE : claim_slot(pager, first, end, region, asking);
  if (index == NONE) {
    return false;
  }
  push(pager, index);
  wake(pager, false);
  pf__queue_look_again(pager, region);
  return true;
}

bool pf_pager_ask_ahead(pf_region_t *region, uint64_t page, uint32_t count) {
  const asking_t asking = {.page = page, .count = count, .access = PF_ASK_AHEAD, .deadline_ns = pf_now_ns() + region->timeout_ns};
  return ask_now(region, 0, AHEAD_SLOTS, &asking);
}

/* The pager looks at `wanted` once it has made the slot TAKEN, and at those of all slots when `hurried` is set: one of the two comes after this. */
void pf_pager_hurry(pf_region_t *region, uint64_t page) {
  pf_pager_t *pager = region->source.pager;
  for (uint32_t i = 0; i < AHEAD_SLOTS; i++) {
    slot_t *slot = &pager->slots[i];
    uint64_t word = atomic_load(&slot->word), wanted = generation_of(word);
    if (((word & 7) != ASKED && (word & 7) != TAKEN) || slot->access != PF_ASK_AHEAD || slot->region != region || page - slot->page >= slot->count) {
      continue;
    }
    uint64_t before = atomic_load(&slot->wanted); /* of an older order, if the slot was used again since we looked */
    while (before < wanted && !atomic_compare_exchange_weak(&slot->wanted, &before, wanted)) {
    }
    if (before < wanted) {
      atomic_store(&pager->hurried, 1);
      wake(pager, true);
    }
    return;
  }
}

bool pf_pager_ask_write_back(pf_region_t *region, uint64_t page, uint32_t count) {
  const asking_t asking = {.page = page, .count = count, .access = PF_ASK_WRITE, .deadline_ns = pf_now_ns() + region->timeout_ns};
  return ask_now(region, FIRST_WRITE_SLOT, PF_PAGER_SLOTS, &asking);
}

/* --- taking: the pager's thread -------------------------------------------------------------------------------------------- */

void pf__slot_free(pf_pager_t *pager, slot_t *slot) {
  slot->region = NULL;
  atomic_store(&slot->word, ((atomic_load(&slot->word) >> 3) + 1) << 3 | FREE);
  atomic_fetch_add(&pager->freed, 1);
  if (atomic_load(&pager->waiters) > 0) {
    pf_futex_wake_all(&pager->freed);
  }
}

/* Takes the stack, turns it over, so that the oldest comes first, and puts it behind the list. */
static void take_stack(pf_pager_t *pager) {
  uint32_t head = atomic_exchange(&pager->stack, 0);
  uint32_t index = head == 0 ? NONE : head - 1, newest = index, oldest = NONE;
  while (index != NONE) {
    uint32_t next = pager->slots[index].next;
    pager->slots[index].next = oldest;
    oldest = index;
    index = next;
  }
  if (oldest == NONE) {
    return;
  }
  *(pager->list == NONE ? &pager->list : &pager->slots[pager->list_end].next) = oldest;
  pager->list_end = newest;
}

static bool is_wanted(slot_t *slot) {
  return atomic_load(&slot->wanted) == generation_of(atomic_load(&slot->word));
}

static bool is_ahead(slot_t *slot) { return slot->access == PF_ASK_AHEAD && !is_wanted(slot); }

/* Takes the oldest of those that somebody waits for out of the list, else the oldest; NONE: it is empty. Where others keep on coming the oldest has its turn, too: a
 * range that is loaded must come, and a replay end. */
static uint32_t take_first(pf_pager_t *pager) {
  uint32_t before = NONE, index = pager->list;
  while (pager->passed < PASSED_MAX && index != NONE && is_ahead(&pager->slots[index])) {
    before = index;
    index = pager->slots[index].next;
  }
  if (index == NONE) {
    before = NONE;
    index = pager->list;
  }
  if (index == NONE) {
    return NONE;
  }
  pager->passed = before == NONE ? 0 : pager->passed + 1;
  *(before == NONE ? &pager->list : &pager->slots[before].next) = pager->slots[index].next;
  if (index == pager->list_end) {
    pager->list_end = before;
  }
  return index;
}

static bool find_order(pf_pager_t *pager, pf_order_t *out) {
  for (;;) {
    if (atomic_load_explicit(&pager->stack, memory_order_relaxed) != 0) {
      take_stack(pager);
    }
    uint32_t index = take_first(pager);
    if (index == NONE) {
      return false;
    }
    slot_t *slot = &pager->slots[index];
    uint64_t word = atomic_load(&slot->word);
    pf_region_t *region = slot->region;
    uint64_t page = slot->page;
    uint64_t now = pf_now_ns();
    atomic_store_explicit(&slot->taken_ns, now, memory_order_relaxed);
    atomic_fetch_add(&region->users, 1); /* once it is TAKEN others may take it away, and the region with it */
    if (!move_slot(slot, ASKED, TAKEN, &word)) {
      pf_region_leave(region);
      pf__slot_free(pager, slot); /* abandoned before it was begun */
      continue;
    }
    uint32_t access = slot->access;
    if (access <= PF_ASK_AHEAD) {
      atomic_fetch_add_explicit(&region->counters.store_reads, 1, memory_order_relaxed);
    } else if (access == PF_ASK_WRITE) {
      atomic_fetch_add_explicit(&region->counters.store_writes, 1, memory_order_relaxed);
    }
    if (access == PF_ASK_AHEAD && is_wanted(slot)) {
      slot->told = generation_of(word);
      access = PF_ASK_READ;
    }
    *out = (pf_order_t){
        .slot = index,
        .store = region->source.store,
        .access = access,
        .offset = page << region->page_shift,
        .length = (uint32_t)pf_stored_bytes(region, page, slot->count),
        .timeout_ms = slot->deadline_ns > now ? (slot->deadline_ns - now) / 1000000 : 0,
    };
    pf_region_leave(region);
    return true;
  }
}

/* An order ahead that was taken, and that somebody has come to wait for since. */
static bool find_wanted(pf_pager_t *pager, pf_order_t *out) {
  if (atomic_load_explicit(&pager->hurried, memory_order_relaxed) == 0) {
    return false;
  }
  atomic_store(&pager->hurried, 0);
  for (uint32_t i = 0; i < AHEAD_SLOTS; i++) {
    slot_t *slot = &pager->slots[i];
    uint64_t word = atomic_load(&slot->word);
    if ((word & 7) == TAKEN && is_wanted(slot) && slot->told != generation_of(word)) {
      slot->told = generation_of(word);
      atomic_store(&pager->hurried, 1); /* there may be more */
      *out = (pf_order_t){.slot = i, .access = PF_ASK_HURRY};
      return true;
    }
  }
  return false;
}

bool pf_pager_next(pf_pager_t *pager, pf_order_t *out) {
  for (;;) {
    for (int tries = 0; tries <= YIELDS; tries++) {
      if (find_wanted(pager, out) || find_order(pager, out)) {
        atomic_store(&pager->asleep, 0);
        return true;
      }
      sched_yield();
    }
    atomic_store(&pager->asleep, 1);
    if (atomic_load(&pager->stack) == 0 && atomic_load(&pager->hurried) == 0) {
      return false;
    }
    atomic_store(&pager->asleep, 0); /* one came while we lay down */
  }
}

uint8_t *pf_pager_buffer(pf_pager_t *pager, uint32_t slot, size_t len) {
  return pager->slots[slot].bytes_len >= len ? pager->slots[slot].bytes : NULL;
}

void pf_pager_set_buffer(pf_pager_t *pager, uint32_t slot, uint8_t *bytes, size_t len) {
  pager->slots[slot].bytes = bytes;
  pager->slots[slot].bytes_len = len;
}

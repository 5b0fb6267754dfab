/*
 * Budgets: how many bytes of a region, or of several, may be in memory at once. Their members, what is charged to them, and the wait for room.
 *
 * A page is charged before it is read, so the bound is never exceeded, not even for a moment. Who needs room makes it (evict.c): the faulting
 * thread itself evicts, in batches, so that the kernel flushes its tables once for many pages.
 *
 * The queues hold numbers: each region has a range of the budget's 2^31 page numbers.
 */
#include "budget.h"
#include "thread.h"
#include "touched.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGES_SHARE 4     /* a quarter is for pages whatever our own memory and the page tables take */
#define SCRATCH_SHARE 8   /* the buffers that pages are read into count where they are less than an eighth of the budget */
#define BUDGETS 65536

static pf_lock_t directory_lock;
static pf_budget_t *directory[BUDGETS];
static uint64_t next_budget = 1;

/* --- numbers and queues (lock held) ---------------------------------------------------------------------------------------- */

pf_region_t *pf__member_of(const pf_budget_t *budget, uint32_t number, uint64_t *page) {
  size_t low = 0, high = budget->member_count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (budget->members[middle].end <= number) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == budget->member_count || budget->members[low].first > number) {
    return NULL;
  }
  *page = number - budget->members[low].first;
  return budget->members[low].region;
}

void pf__ring_compact(pf_budget_t *budget, pf_ring_t *ring, unsigned state, const pf_region_t *forget) {
  for (size_t left = ring->pages; left > 0; left--) {
    uint32_t number = pf__ring_pop(ring);
    uint64_t page;
    pf_region_t *region = pf__member_of(budget, number, &page);
    if (region == NULL || region == forget) {
      continue;
    }
    pf_state_t *byte = &region->states[page];
    unsigned now = atomic_load_explicit(byte, memory_order_relaxed) & PF_STATE;
    bool keep = now == state || (state == PF_PRESENT && (now == PF_LOADING || now == PF_INSTALLING));
    if (!keep && state == PF_PRESENT) { /* it may have come back in this moment, and then nobody else enters it */
      now = atomic_fetch_and(byte, (uint8_t)~PF_QUEUED) & PF_STATE;
      keep = now == PF_PRESENT && !(atomic_fetch_or(byte, PF_QUEUED) & PF_QUEUED);
    }
    if (keep) {
      pf__ring_push(ring, number);
    }
  }
}

void pf__queue_changed(pf_budget_t *budget) {
  atomic_store_explicit(&budget->queue_full, !pf__ring_has_room(&budget->fifo, 1), memory_order_relaxed);
}

/* --- directory and members --------------------------------------------------------------------------------------------- */

static void free_budget(pf_budget_t *budget) {
  pf__ring_free(&budget->fifo);
  pf__ring_free(&budget->stage);
  free(budget->members);
  free(budget);
}

int pf_budget_create(uint64_t limit, pf_budget_t **out) {
  pf_budget_t *budget = calloc(1, sizeof *budget);
  if (budget == NULL) {
    return -ENOMEM;
  }
  size_t pages = limit / pf_os_page_size();
  size_t capacity = (pages < PF_BUDGET_PAGES_MAX ? pages : PF_BUDGET_PAGES_MAX) * 2 + 2048;
  int err = pf__ring_make(&budget->fifo, capacity);
  if (err == 0) {
    err = pf__ring_make(&budget->stage, capacity); /* dirty pages that cannot be written are all staged in the end */
  }
  if (err != 0) {
    free_budget(budget);
    return err;
  }
  budget->limit = limit;
  budget->holders = 1;
  atomic_store(&budget->largest, pf_os_page_size());
  pf_lock(&directory_lock);
  size_t slot = next_budget % BUDGETS;
  while (directory[slot] != NULL || slot == 0) {
    slot = (slot + 1) % BUDGETS;
    if (slot == next_budget % BUDGETS) {
      pf_unlock(&directory_lock);
      free_budget(budget);
      return -EMFILE;
    }
  }
  budget->id = next_budget++ << 16 | slot;
  directory[slot] = budget;
  pf_unlock(&directory_lock);
  *out = budget;
  return 0;
}

unsigned pf_budget_count(void) {
  unsigned count = 0;
  pf_lock(&directory_lock);
  for (size_t slot = 0; slot < BUDGETS; slot++) {
    count += directory[slot] != NULL;
  }
  pf_unlock(&directory_lock);
  return count;
}

uint64_t pf_budget_id(const pf_budget_t *budget) { return budget->id; }

pf_budget_t *pf_budget_by_id(uint64_t id) {
  pf_lock(&directory_lock);
  pf_budget_t *budget = directory[id % BUDGETS];
  if (budget != NULL && budget->id == id) {
    budget->holders++;
  } else {
    budget = NULL;
  }
  pf_unlock(&directory_lock);
  return budget;
}

static void hold(pf_budget_t *budget) {
  pf_lock(&directory_lock);
  budget->holders++;
  pf_unlock(&directory_lock);
}

void pf_budget_drop(pf_budget_t *budget) {
  pf_lock(&directory_lock);
  bool last = --budget->holders == 0;
  if (last) {
    directory[budget->id % BUDGETS] = NULL;
  }
  pf_unlock(&directory_lock);
  if (last) {
    free_budget(budget);
  }
}

/* Room for one more, allocated before the lock is taken; `old` is the caller's to free. */
static int grow_members(pf_budget_t *budget, pf_member_t **old) {
  *old = NULL;
  if (budget->member_count < budget->member_capacity) {
    return 0;
  }
  size_t capacity = budget->member_capacity == 0 ? 1 : budget->member_capacity * 2;
  pf_member_t *grown = malloc(capacity * sizeof *grown);
  if (grown == NULL) {
    return -ENOMEM;
  }
  pf_lock(&budget->lock);
  if (budget->member_count > 0) {
    memcpy(grown, budget->members, budget->member_count * sizeof *grown);
  }
  *old = budget->members;
  budget->members = grown;
  budget->member_capacity = capacity;
  pf_unlock(&budget->lock);
  return 0;
}

int pf_budget_join(pf_budget_t *budget, pf_region_t *region) {
  pf_member_t *old;
  if (grow_members(budget, &old) != 0) {
    return -ENOMEM;
  }
  free(old);
  pf_lock(&budget->lock);
  uint64_t first = 0;
  size_t at = budget->member_count;
  if (at > 0 && budget->members[at - 1].end + region->page_count > PF_BUDGET_PAGES_MAX) {
    for (at = 0; at < budget->member_count && budget->members[at].first - first < region->page_count; at++) {
      first = budget->members[at].end;
    }
  } else if (at > 0) {
    first = budget->members[at - 1].end;
  }
  bool fits = first + region->page_count <= PF_BUDGET_PAGES_MAX;
  if (fits) {
    memmove(&budget->members[at + 1], &budget->members[at], (budget->member_count - at) * sizeof *budget->members);
    budget->members[at] = (pf_member_t){.first = (uint32_t)first, .end = first + region->page_count, .region = region};
    budget->member_count++;
    region->budget_first = (uint32_t)first;
    region->budget_member = true;
    if (pf_page_size(region) > atomic_load(&budget->largest)) {
      atomic_store(&budget->largest, pf_page_size(region));
    }
  }
  pf_unlock(&budget->lock);
  if (!fits) {
    return -ENOSPC;
  }
  hold(budget);
  return 0;
}

void pf_budget_detach(pf_region_t *region) {
  pf_budget_t *budget = region->budget;
  pf_lock(&budget->lock);
  if (region->budget_member) {
    if (atomic_load(&region->counters.loads) > 0) {
      pf__ring_compact(budget, &budget->fifo, PF_PRESENT, region);
      pf__ring_compact(budget, &budget->stage, PF_STAGED, region);
      pf__queue_changed(budget);
    }
    size_t at = 0;
    while (budget->members[at].region != region) {
      at++;
    }
    budget->member_count--;
    memmove(&budget->members[at], &budget->members[at + 1], (budget->member_count - at) * sizeof *budget->members);
    region->budget_member = false;
  }
  pf_unlock(&budget->lock);
}

void pf_budget_leave(pf_region_t *region) {
  pf_budget_t *budget = region->budget;
  if (region->table_pages != NULL) {
    for (size_t i = 0; i <= region->states_len / pf_os_page_size() / 8; i++) {
      int in_use = __builtin_popcount(atomic_exchange(&region->table_pages[i], 0));
      pf_budget_overhead(budget, -(int64_t)in_use * (int64_t)pf_os_page_size() * (region->writable ? 2 : 1));
    }
  }
  pf_budget_overhead(budget, -pf_blocks_overhead(region) - pf_touched_overhead(region));
  pf_budget_pin(budget, -(int64_t)(atomic_exchange(&region->counters.pinned_pages, 0) << region->page_shift));
  atomic_fetch_sub(&budget->used, atomic_exchange(&region->charged, 0));
  atomic_fetch_sub(&budget->staged, atomic_exchange(&region->counters.staged, 0));
  atomic_store(&region->counters.resident, 0);
  atomic_fetch_add(&budget->freed, 1);
  pf_futex_wake_all(&budget->freed);
  region->budget = NULL;
  pf_budget_drop(budget);
}

void pf_budget_overhead(pf_budget_t *budget, int64_t bytes) { atomic_fetch_add(&budget->overhead, bytes); }

bool pf_budget_is_strained(const pf_budget_t *budget, unsigned share) {
  return atomic_load_explicit(&budget->overhead, memory_order_relaxed) > (int64_t)(budget->limit / share);
}

void pf_budget_staged(pf_region_t *region, int64_t bytes) {
  atomic_fetch_add(&region->counters.staged, (uint64_t)bytes);
  if (region->budget != NULL) {
    atomic_fetch_add(&region->budget->staged, (uint64_t)bytes);
  }
}

/* One instruction may need four pages at once, and each further thread that faults at the same time two: with fewer they would evict each
 * other's for ever, and none would get both. */
uint64_t pf__pages_needed(const pf_budget_t *budget) {
  uint32_t crowd = atomic_load_explicit(&budget->crowd, memory_order_relaxed);
  return PF_BUDGET_PAGES_MIN + (crowd > 1 ? 2 * (crowd - 1) : 0);
}

/* What pages may take: the limit less our own memory, and while staging, less the copies under way. Never less than what is
 * pinned and what the threads need to go on: what pf_budget_pin allowed can be loaded. */
static uint64_t room_for_pages(const pf_budget_t *budget) {
  uint64_t largest = atomic_load_explicit(&budget->largest, memory_order_relaxed);
  uint64_t scratch = pf_scratch_bytes();
  int64_t overhead = atomic_load_explicit(&budget->overhead, memory_order_relaxed);
  overhead += (int64_t)(scratch <= budget->limit / SCRATCH_SHARE ? scratch : 0);
  uint64_t most = budget->limit - budget->limit / PAGES_SHARE;
  uint64_t room = budget->limit - (overhead < 0 ? 0 : (uint64_t)overhead < most ? (uint64_t)overhead : most);
  if (atomic_load_explicit(&budget->staged, memory_order_relaxed) > 0 && room > 8 * PF_STAGE_BATCH * largest) {
    room -= PF_STAGE_BATCH * largest;
  }
  uint64_t least = atomic_load_explicit(&budget->pinned, memory_order_relaxed) + pf__pages_needed(budget) * largest;
  return room > least ? room : least;
}

void pf_budget_crowd(pf_region_t *region, int change) {
  pf_budget_t *budget = region->budget;
  if (budget == NULL) {
    return;
  }
  uint32_t now = atomic_fetch_add(&budget->loading, (uint32_t)change) + (uint32_t)change;
  uint32_t crowd = atomic_load_explicit(&budget->crowd, memory_order_relaxed);
  if (change > 0 && now > crowd && region->served) { /* service threads are not done yet with threads that have gone on */
    uint32_t waiting = pf_thread_waiting();
    now = now < waiting ? now : waiting;
  }
  while (change > 0 && now > crowd && !atomic_compare_exchange_weak(&budget->crowd, &crowd, now)) {
  }
}

bool pf_budget_pin(pf_budget_t *budget, int64_t bytes) {
  uint64_t keep = pf__pages_needed(budget) * atomic_load(&budget->largest), before = atomic_load(&budget->pinned);
  do { /* not added before it is known: two that were too many together would refuse each other */
    if (bytes > 0 && before + (uint64_t)bytes + keep > room_for_pages(budget)) {
      return false;
    }
  } while (!atomic_compare_exchange_weak(&budget->pinned, &before, before + (uint64_t)bytes));
  return true;
}

void pf_budget_numbers(const pf_budget_t *budget, pf_budget_numbers_t *out) {
  *out = (pf_budget_numbers_t){
      .used = atomic_load(&budget->used),
      .limit = budget->limit,
      .staged = atomic_load(&budget->staged),
      .pinned = atomic_load(&budget->pinned),
  };
  out->resident = out->used > out->staged ? out->used - out->staged : 0; /* a page may have been staged in between */
}

/* --- charging ---------------------------------------------------------------------------------------------------------- */

/* Takes what fits of `bytes`, in whole pages. */
static uint32_t take(pf_budget_t *budget, uint32_t count, size_t size, uint64_t room) {
  uint64_t used = atomic_load(&budget->used);
  uint64_t fits;
  do {
    fits = used >= room ? 0 : (room - used) / size;
    fits = fits < count ? fits : count;
    if (fits == 0) {
      return 0;
    }
  } while (!atomic_compare_exchange_weak(&budget->used, &used, used + fits * size));
  return (uint32_t)fits;
}

/* False with the reason when there is no more to be waited for. */
static bool wait_for_room(pf_region_t *region, pf_wait_t *wait, uint32_t seen, uint32_t failures, pf_why_t *why) {
  uint64_t now = pf_now_ns();
  if (pf_must_stop(region, wait, why)) {
    return false;
  }
  if (now >= wait->deadline_ns) {
    bool unwritable = atomic_load(&region->budget->write_failures) != failures;
    *why = unwritable ? (pf_why_t){.code = PF_E_WRITE, .err = atomic_load(&region->budget->write_errno)} : (pf_why_t){.code = PF_E_BUDGET};
    return false;
  }
  uint64_t slice = now + 10000000ULL;
  pf_note_doing(wait, PF_DOES_ROOM);
  pf_about_to_block();
  atomic_fetch_add(&region->budget->waiters, 1);
  pf_futex_wait(&region->budget->freed, seen, slice < wait->deadline_ns ? slice : wait->deadline_ns);
  atomic_fetch_sub(&region->budget->waiters, 1);
  if (pf_exit_begun()) {
    pf_exit_check();
  }
  return true;
}

uint32_t pf_budget_charge(pf_region_t *region, uint32_t count, pf_wait_t *wait, pf_why_t *why) {
  pf_budget_t *budget = region->budget;
  size_t size = pf_page_size(region);
  bool dear = pf__is_dear(budget, region);
  uint32_t failures = atomic_load(&budget->write_failures);
  *why = (pf_why_t){0};
  for (;;) {
    uint64_t room = room_for_pages(budget);
    uint32_t most = (uint32_t)(room / size / 2 < count ? room / size / 2 : count); /* reading ahead must not evict itself */
    most = most == 0 ? 1 : most;
    uint32_t seen = atomic_load(&budget->freed);
    uint64_t used = atomic_load(&budget->used);
    if (atomic_load_explicit(&budget->queue_full, memory_order_relaxed) && used < room) { /* one goes for each that comes, since nobody would find it later */
      room = used;
    }
    if (used + most * size > room) {
      uint64_t want = used + most * size - room;
      uint64_t batch = room / 16 < 32 * size ? room / 16 : 32 * size;
      uint64_t freed = pf__make_room(budget, want < batch && !dear ? batch : want, dear, room);
      used = atomic_load(&budget->used);
      if (freed == 0 && used + size > room && !wait_for_room(region, wait, seen, failures, why)) {
        return 0;
      }
    }
    uint32_t taken = take(budget, most, size, room);
    if (taken > 0) {
      atomic_fetch_add(&region->charged, taken * size);
      return taken;
    }
  }
}

bool pf_budget_has_room(const pf_region_t *region, uint32_t count) {
  const pf_budget_t *budget = region->budget;
  return atomic_load(&budget->used) + ((uint64_t)count << region->page_shift) <= room_for_pages(budget);
}

void pf_budget_uncharge(pf_region_t *region, uint64_t pages) {
  pf_budget_t *budget = region->budget;
  if (budget == NULL) {
    return;
  }
  uint64_t bytes = pages << region->page_shift;
  atomic_fetch_sub(&region->charged, bytes);
  atomic_fetch_sub(&budget->used, bytes);
  atomic_fetch_add(&budget->freed, 1);
  if (atomic_load(&budget->waiters) > 0) {
    pf_futex_wake_all(&budget->freed);
  }
}

void pf_budget_enqueue(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  pf_budget_t *budget = region->budget;
  pf_lock(&budget->lock);
  if (region->budget_member) {
    if (!pf__ring_has_room(&budget->fifo, count)) {
      pf__ring_compact(budget, &budget->fifo, PF_PRESENT, NULL);
    }
    for (uint32_t i = 0; i < count; i++) {
      pf__ring_push(&budget->fifo, region->budget_first + (uint32_t)pages[i]);
    }
    pf__queue_changed(budget);
  }
  pf_unlock(&budget->lock);
}

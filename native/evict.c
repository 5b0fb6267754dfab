/*
 * Budgets: how many bytes of a region, or of several, may be in memory at once; and what goes when there are more.
 *
 * A page is charged before it is read, so the bound is never exceeded, not even for a moment. Who needs room makes it: the faulting
 * thread itself evicts, in batches, so that the kernel flushes its tables once for many pages.
 *
 *        loaded ──▶ FIFO ──▶ dropped                        where a load is cheap
 *                    │ ▲
 *                    ▼ │ touched: stolen back
 *                  staged ──▶ dropped                       where it is dear: no more than STAGED_SHARE of the pages
 *
 * There is no accessed bit to be had, but closing a page and seeing whether it is touched again before its turn comes is as good
 * as one. It costs two faults for every page that it saves, so it pays only where a load costs more than that.
 *
 * The queues hold numbers: each region has a range of the budget's 2^31 page numbers. The lock is held for a bounded number of steps,
 * never while the kernel is called.
 */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEAR_NS 15000     /* a load above this: stage */
#define CHEAP_NS 8000     /* below this: stage no more */
#define STAGED_SHARE 4    /* at most a quarter of the budget is staged */
#define STAGE_BATCH 4
#define PAGES_SHARE 4     /* a quarter is for pages whatever our own memory and the page tables take */
#define SCRATCH_SHARE 8   /* the buffers that pages are read into count where they are less than an eighth of the budget */
#define ROUND 4096        /* pages looked at with the lock held */
#define BUDGETS 65536

typedef struct {
  uint32_t *words;
  size_t capacity, head, used; /* words */
  size_t pages;                /* in the entries */
  unsigned last;               /* words of the newest entry */
} ring_t;

typedef struct {
  uint32_t first;
  uint64_t end;
  pf_region_t *region;
} member_t;

struct pf_budget {
  uint64_t id;
  pf_lock_t lock;
  uint64_t limit;
  _Atomic uint64_t used;     /* bytes of pages: being read, present, staged */
  _Atomic int64_t overhead;  /* bytes of our own */
  _Atomic uint64_t staged;   /* bytes of `used` that are staged */
  _Atomic uint64_t pinned;
  _Atomic uint32_t loading;  /* threads that load a page now */
  _Atomic uint32_t crowd;    /* the most there ever were */
  _Atomic uint64_t largest;  /* page size among the members */
  _Atomic uint32_t freed;    /* futex: something was given back */
  _Atomic uint32_t waiters;  /* threads asleep on it */
  ring_t fifo, stage;
  member_t *members;         /* by number */
  size_t member_count, member_capacity;
  uint32_t holders;          /* under directory_lock */
};

static pf_lock_t directory_lock;
static pf_budget_t *directory[BUDGETS];
static uint64_t next_budget = 1;

/* --- rings (lock held) ----------------------------------------------------------------------------------------------
 *
 * An entry is one word, a page; or, for neighbours that came one after the other, two:
 *
 *     | 0 number |        | 1 number of the first | how many |
 *
 * so that a page costs four bytes at most, and a page of a densely read range next to nothing. */

#define RUN 0x80000000u

static int ring_make(ring_t *ring, size_t capacity) {
  void *words;
  int err = pf_mem_reserve(capacity * sizeof *ring->words, "pagefault queue", &words);
  if (err == 0) {
    *ring = (ring_t){.words = words, .capacity = capacity};
  }
  return err;
}

static void ring_free(ring_t *ring) {
  if (ring->words != NULL) {
    pf_mem_unmap(ring->words, ring->capacity * sizeof *ring->words);
  }
}

static uint32_t *word_at(ring_t *ring, size_t index) { return &ring->words[(ring->head + index) % ring->capacity]; }

/* Half is kept free: compacting splits runs, and puts what stays behind what it has not looked at yet. */
static bool ring_has_room(const ring_t *ring, size_t words) { return ring->used + words <= ring->capacity / 2; }

static void ring_push(ring_t *ring, uint32_t number) {
  ring->pages++;
  if (ring->last == 2) {
    uint32_t first = *word_at(ring, ring->used - 2) & ~RUN;
    uint32_t *count = word_at(ring, ring->used - 1);
    if (first + *count == number) {
      (*count)++;
      return;
    }
  } else if (ring->last == 1 && *word_at(ring, ring->used - 1) + 1 == number) {
    *word_at(ring, ring->used - 1) |= RUN;
    *word_at(ring, ring->used++) = 2;
    ring->last = 2;
    return;
  }
  *word_at(ring, ring->used++) = number;
  ring->last = 1;
}

/* The oldest page; the ring is not empty. */
static uint32_t ring_pop(ring_t *ring) {
  uint32_t *word = word_at(ring, 0);
  uint32_t number = *word & ~RUN;
  size_t done = 1;
  ring->pages--;
  if (*word & RUN) {
    uint32_t *count = word_at(ring, 1);
    done = --*count == 0 ? 2 : 0;
    *word = (number + 1) | RUN;
  }
  ring->head = (ring->head + done) % ring->capacity;
  ring->used -= done;
  if (ring->used == 0) {
    ring->last = 0;
    ring->head = 0; /* the words in use stay the same few */
  }
  return number;
}

static pf_region_t *member_of(const pf_budget_t *budget, uint32_t number, uint64_t *page) {
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

/* Takes out the entries that no longer mean anything. `forget`: also those of this region. */
static void ring_compact(pf_budget_t *budget, ring_t *ring, unsigned state, const pf_region_t *forget) {
  for (size_t left = ring->pages; left > 0; left--) {
    uint32_t number = ring_pop(ring);
    uint64_t page;
    pf_region_t *region = member_of(budget, number, &page);
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
      ring_push(ring, number);
    }
  }
}

/* --- directory and members --------------------------------------------------------------------------------------------- */

static void free_budget(pf_budget_t *budget) {
  ring_free(&budget->fifo);
  ring_free(&budget->stage);
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
  int err = ring_make(&budget->fifo, capacity);
  if (err == 0) {
    err = ring_make(&budget->stage, capacity / STAGED_SHARE * 2);
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

void pf_budget_hold(pf_budget_t *budget) {
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
static int grow_members(pf_budget_t *budget, member_t **old) {
  *old = NULL;
  if (budget->member_count < budget->member_capacity) {
    return 0;
  }
  size_t capacity = budget->member_capacity == 0 ? 1 : budget->member_capacity * 2;
  member_t *grown = malloc(capacity * sizeof *grown);
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
  member_t *old;
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
    budget->members[at] = (member_t){.first = (uint32_t)first, .end = first + region->page_count, .region = region};
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
  pf_budget_hold(budget);
  return 0;
}

void pf_budget_detach(pf_region_t *region) {
  pf_budget_t *budget = region->budget;
  pf_lock(&budget->lock);
  if (region->budget_member) {
    if (atomic_load(&region->counters.loads) > 0) {
      ring_compact(budget, &budget->fifo, PF_PRESENT, region);
      ring_compact(budget, &budget->stage, PF_STAGED, region);
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
      pf_budget_overhead(budget, -(int64_t)in_use * (int64_t)pf_os_page_size());
    }
  }
  pf_budget_overhead(budget, -pf_blocks_overhead(region));
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
static uint64_t pages_needed(const pf_budget_t *budget) {
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
  if (atomic_load_explicit(&budget->staged, memory_order_relaxed) > 0 && room > 8 * STAGE_BATCH * largest) {
    room -= STAGE_BATCH * largest;
  }
  uint64_t least = atomic_load_explicit(&budget->pinned, memory_order_relaxed) + pages_needed(budget) * largest;
  return room > least ? room : least;
}

void pf_budget_crowd(pf_region_t *region, int change) {
  pf_budget_t *budget = region->budget;
  if (budget == NULL) {
    return;
  }
  uint32_t now = atomic_fetch_add(&budget->loading, (uint32_t)change) + (uint32_t)change;
  uint32_t crowd = atomic_load_explicit(&budget->crowd, memory_order_relaxed);
  while (change > 0 && now > crowd && !atomic_compare_exchange_weak(&budget->crowd, &crowd, now)) {
  }
}

bool pf_budget_pin(pf_budget_t *budget, int64_t bytes) {
  uint64_t keep = pages_needed(budget) * atomic_load(&budget->largest);
  uint64_t room = room_for_pages(budget);
  uint64_t after = atomic_fetch_add(&budget->pinned, (uint64_t)bytes) + (uint64_t)bytes;
  if (bytes > 0 && after + keep > room) {
    atomic_fetch_sub(&budget->pinned, (uint64_t)bytes);
    return false;
  }
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

/* --- evicting ---------------------------------------------------------------------------------------------------------- */

typedef struct {
  pf_region_t *region[PF_BATCH_MAX];
  uint64_t page[PF_BATCH_MAX];
  uint32_t count;
  uint64_t bytes;
} victims_t;

/* Looks at some pages at the front of a queue; *left is how many are to be looked at in all. See collect. */
static void collect_some(pf_budget_t *budget, ring_t *ring, unsigned from, uint64_t want, uint32_t most, size_t *left, victims_t *out) {
  pf_lock(&budget->lock);
  *left = *left < ring->pages ? *left : ring->pages;
  size_t tries = *left < ROUND ? *left : ROUND;
  *left -= tries;
  for (; tries > 0 && out->bytes < want && out->count < most; tries--) {
    uint32_t number = ring_pop(ring);
    uint64_t page;
    pf_region_t *region = member_of(budget, number, &page);
    if (region == NULL) {
      continue;
    }
    pf_state_t *byte = &region->states[page];
    uint8_t seen = atomic_load_explicit(byte, memory_order_relaxed);
    if (from == PF_PRESENT && (seen & PF_PINNED)) {
      ring_push(ring, number); /* it stays, and keeps its turn */
      continue;
    }
    if (from == PF_PRESENT) {
      seen = (uint8_t)(atomic_fetch_and(byte, (uint8_t)~PF_QUEUED) & ~PF_QUEUED);
    }
    if ((seen & PF_STATE) != from || (seen & PF_PINNED) ||
        !atomic_compare_exchange_strong(byte, &seen, (uint8_t)((seen & ~PF_STATE) | PF_EVICTING))) {
      if (from == PF_PRESENT && (seen & PF_STATE) == PF_PRESENT && !(atomic_fetch_or(byte, PF_QUEUED) & PF_QUEUED)) {
        ring_push(ring, number); /* pinned in this moment */
      }
      continue;
    }
    atomic_fetch_add(&region->users, 1);
    out->region[out->count] = region;
    out->page[out->count++] = page;
    out->bytes += pf_page_size(region);
  }
  pf_unlock(&budget->lock);
}

/* Takes pages from the front of a queue into EVICTING, up to `want` bytes and `most` pages. Their regions are entered. The lock is let go between
 * rounds: pages that were released in between are passed over, and there may be millions. */
static void collect(pf_budget_t *budget, ring_t *ring, unsigned from, uint64_t want, uint32_t most, victims_t *out) {
  out->count = 0;
  out->bytes = 0;
  size_t left = SIZE_MAX;
  while (left > 0 && out->bytes < want && out->count < most) {
    collect_some(budget, ring, from, want, most, &left, out);
  }
}

/* The next region among the victims and its pages, taken out of the list; false when there is none left. */
static bool next_group(victims_t *victims, pf_region_t **region, uint64_t pages[PF_BATCH_MAX], uint32_t *count) {
  if (victims->count == 0) {
    return false;
  }
  *region = victims->region[0];
  *count = 0;
  uint32_t rest = 0;
  for (uint32_t i = 0; i < victims->count; i++) {
    if (victims->region[i] == *region) {
      pages[(*count)++] = victims->page[i];
    } else {
      victims->region[rest] = victims->region[i];
      victims->page[rest++] = victims->page[i];
    }
  }
  victims->count = rest;
  return true;
}

static void settle_group(pf_region_t *region, const uint64_t *pages, uint32_t count, unsigned state) {
  for (uint32_t i = 0; i < count; i++) {
    pf_page_settle(region, pages[i], state);
  }
  atomic_fetch_sub(&region->users, count);
}

static void put_back(pf_region_t *region, const uint64_t *pages, uint32_t count) {
  for (uint32_t i = 0; i < count; i++) {
    pf_page_settle(region, pages[i], PF_PRESENT | PF_QUEUED);
  }
  pf_budget_enqueue(region, pages, count);
  atomic_fetch_sub(&region->users, count);
}

static uint64_t drop_present(victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX], freed = 0;
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    if (!pf_pages_drop(region, pages, count)) {
      put_back(region, pages, count);
      continue;
    }
    uint64_t bytes = (uint64_t)count << region->page_shift;
    atomic_fetch_add(&region->counters.evictions, count);
    atomic_fetch_sub(&region->counters.resident, bytes);
    pf_budget_uncharge(region, count);
    freed += bytes;
    settle_group(region, pages, count, PF_ABSENT);
  }
  return freed;
}

static uint64_t drop_staged(victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX], freed = 0;
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    pf_pages_forget(region, pages, count);
    uint64_t bytes = (uint64_t)count << region->page_shift;
    pf_budget_staged(region, -(int64_t)bytes);
    pf_budget_uncharge(region, count);
    freed += bytes;
    settle_group(region, pages, count, PF_ABSENT);
  }
  return freed;
}

/* lock not held. The entry comes after the state, so that a page found in the queue is STAGED unless it was touched again. */
static void enqueue_staged(pf_budget_t *budget, pf_region_t *region, const uint64_t *pages, uint32_t count) {
  pf_lock(&budget->lock);
  if (region->budget_member) {
    if (!ring_has_room(&budget->stage, count)) {
      ring_compact(budget, &budget->stage, PF_STAGED, NULL);
    }
    for (uint32_t i = 0; i < count && ring_has_room(&budget->stage, 1); i++) {
      ring_push(&budget->stage, region->budget_first + (uint32_t)pages[i]);
    }
  }
  pf_unlock(&budget->lock);
}

/* Old bytes must not be kept: such a page goes back, and whoever marked it drops it. */
static void put_back_stale(pf_region_t *region, uint64_t *pages, uint32_t *count) {
  uint32_t fine = 0;
  for (uint32_t i = 0; i < *count; i++) {
    if (atomic_load(&region->states[pages[i]]) & PF_STALE) {
      put_back(region, &pages[i], 1);
    } else {
      pages[fine++] = pages[i];
    }
  }
  *count = fine;
}

static void stage_present(pf_budget_t *budget, victims_t *victims) {
  pf_region_t *region;
  uint64_t pages[PF_BATCH_MAX];
  uint32_t count;
  while (next_group(victims, &region, pages, &count)) {
    put_back_stale(region, pages, &count);
    if (count == 0) {
      continue;
    }
    if (!pf_pages_stage(region, pages, count)) {
      put_back(region, pages, count);
      continue;
    }
    uint64_t bytes = (uint64_t)count << region->page_shift;
    atomic_fetch_add(&region->counters.evictions, count);
    atomic_fetch_sub(&region->counters.resident, bytes);
    pf_budget_staged(region, (int64_t)bytes);
    for (uint32_t i = 0; i < count; i++) {
      pf_page_settle(region, pages[i], PF_STAGED);
    }
    enqueue_staged(budget, region, pages, count);
    atomic_fetch_sub(&region->users, count);
  }
}

static bool is_dear(const pf_budget_t *budget, const pf_region_t *region) {
  uint32_t cost = atomic_load_explicit(&region->load_cost_ns, memory_order_relaxed);
  return cost >= (atomic_load(&budget->staged) > 0 ? CHEAP_NS : DEAR_NS);
}

/* How much may be staged: a part of what is not pinned, and never so much that threads evict from each other what they need at once. */
static uint64_t staging_target(const pf_budget_t *budget, uint64_t room) {
  uint64_t pinned = atomic_load(&budget->pinned), needed = pages_needed(budget) * atomic_load(&budget->largest);
  uint64_t loose = room > pinned + needed ? room - pinned : 0;
  return loose == 0 ? 0 : loose / STAGED_SHARE < loose - needed ? loose / STAGED_SHARE : loose - needed;
}

/* Frees about `want` bytes; 0 when nothing can go at the moment. `dear`: the region that needs room is slow to load. */
static uint64_t make_room(pf_budget_t *budget, uint64_t want, bool dear, uint64_t room) {
  victims_t victims;
  uint64_t freed = 0;
  uint64_t target = dear ? staging_target(budget, room) : 0;
  if (atomic_load(&budget->staged) >= (target > 0 ? target : 1)) {
    collect(budget, &budget->stage, PF_STAGED, want, PF_BATCH_MAX, &victims);
    freed = drop_staged(&victims);
  }
  if (freed == 0) {
    collect(budget, &budget->fifo, PF_PRESENT, want, PF_BATCH_MAX, &victims);
    freed = drop_present(&victims);
  }
  if (target > 0) { /* what was dropped, or a little more, follows into the queue: it fills up over time, not at once */
    collect(budget, &budget->fifo, PF_PRESENT, freed == 0 ? want : freed, STAGE_BATCH, &victims);
    stage_present(budget, &victims);
  }
  if (freed == 0) {
    collect(budget, &budget->stage, PF_STAGED, want, PF_BATCH_MAX, &victims);
    freed = drop_staged(&victims);
  }
  return freed;
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
static bool wait_for_room(pf_region_t *region, pf_wait_t *wait, uint32_t seen, pf_why_t *why) {
  uint64_t now = pf_now_ns();
  if (atomic_load(&region->phase) != PF_PHASE_OPEN) {
    why->code = PF_E_CLOSED;
  } else if (wait->cancel != NULL && atomic_load(wait->cancel) != 0) {
    why->code = PF_E_ABORTED;
  } else if (now >= wait->deadline_ns) {
    why->code = PF_E_BUDGET;
  } else {
    uint64_t slice = now + 10000000ULL;
    atomic_fetch_add(&region->budget->waiters, 1);
    pf_futex_wait(&region->budget->freed, seen, slice < wait->deadline_ns ? slice : wait->deadline_ns);
    atomic_fetch_sub(&region->budget->waiters, 1);
    if (pf_exit_begun()) {
      pf_exit_check();
    }
    return true;
  }
  return false;
}

uint32_t pf_budget_charge(pf_region_t *region, uint32_t count, pf_wait_t *wait, pf_why_t *why) {
  pf_budget_t *budget = region->budget;
  size_t size = pf_page_size(region);
  bool dear = is_dear(budget, region);
  *why = (pf_why_t){0};
  for (;;) {
    uint64_t room = room_for_pages(budget);
    uint32_t most = (uint32_t)(room / size / 2 < count ? room / size / 2 : count); /* reading ahead must not evict itself */
    most = most == 0 ? 1 : most;
    uint32_t seen = atomic_load(&budget->freed);
    uint64_t used = atomic_load(&budget->used);
    if (used + most * size > room) {
      uint64_t want = used + most * size - room;
      uint64_t batch = room / 16 < 32 * size ? room / 16 : 32 * size;
      uint64_t freed = make_room(budget, want < batch && !dear ? batch : want, dear, room);
      used = atomic_load(&budget->used);
      if (freed == 0 && used + size > room && !wait_for_room(region, wait, seen, why)) {
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
    if (!ring_has_room(&budget->fifo, count)) {
      ring_compact(budget, &budget->fifo, PF_PRESENT, NULL);
    }
    for (uint32_t i = 0; i < count; i++) {
      ring_push(&budget->fifo, region->budget_first + (uint32_t)pages[i]);
    }
  }
  pf_unlock(&budget->lock);
}

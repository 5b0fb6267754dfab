/* sanitizers: address,thread,none */
/*
 * Budgets: the bound holds at every moment, whoever loads; pinned pages stay; the queue is first in, first out; staged pages are stolen back;
 * and where nothing can go, a load fails at its deadline instead of hanging.
 */
#include "support.h"

#include "budget.h"

static pf_budget_t *make_budget(uint64_t limit) {
  pf_budget_t *budget = NULL;
  must(pf_budget_create(limit, &budget) == 0, "a budget");
  return budget;
}

static pf_budget_numbers_t numbers_of(const pf_budget_t *budget) {
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  return numbers;
}

/* --- a thread that looks at the numbers all the time ------------------------------------------------------------------------ */

typedef struct {
  pthread_t thread;
  pf_budget_t *budget;
  uint64_t bound;
  _Atomic int stop;
  _Atomic uint64_t samples;
} sampler_t;

static void *sample(void *data) {
  sampler_t *sampler = data;
  while (!atomic_load(&sampler->stop)) {
    pf_budget_numbers_t numbers = numbers_of(sampler->budget);
    EXPECT(numbers.used <= sampler->bound);
    EXPECT(numbers.resident <= sampler->bound); /* a number, whenever it is asked for */
    EXPECT(numbers.staged <= sampler->bound);
    atomic_fetch_add(&sampler->samples, 1);
  }
  return NULL;
}

static void start_sampler(sampler_t *sampler, pf_budget_t *budget, uint64_t bound) {
  *sampler = (sampler_t){.budget = budget, .bound = bound};
  must(pthread_create(&sampler->thread, NULL, sample, sampler) == 0, "a thread");
  while (atomic_load(&sampler->samples) == 0) {
    sched_yield();
  }
}

static void stop_sampler(sampler_t *sampler) {
  atomic_store(&sampler->stop, 1);
  pthread_join(sampler->thread, NULL);
}

/* --- threads that scan -------------------------------------------------------------------------------------------------------- */

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t seed;
  int rounds;
} scanner_t;

static void *scan(void *data) {
  scanner_t *scanner = data;
  pf_region_t *region = scanner->region;
  for (int i = 0; i < scanner->rounds; i++) {
    uint64_t offset = random_next(&scanner->seed) % region->byte_length;
    EXPECT_EQ(touch(region, offset), pattern(offset));
    if (i % 64 == 0) { /* and a stretch in order */
      uint64_t end = offset + 20 * PAGE < region->byte_length ? offset + 20 * PAGE : region->byte_length;
      EXPECT_EQ(first_difference(region, offset, end, 0, region->byte_length), end);
    }
  }
  return NULL;
}

static void start_scanner(scanner_t *scanner, pf_region_t *region, uint64_t seed, int rounds) {
  *scanner = (scanner_t){.region = region, .seed = seed, .rounds = rounds};
  must(pthread_create(&scanner->thread, NULL, scan, scanner) == 0, "a thread");
}

static void never_exceeded(pf_backend_t backend) {
  uint64_t limit = 256 * PAGE, len = 8 * limit + 17;
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, file_source(len), len, OPTIONS(.budget = budget, .readahead = -1));
  sampler_t sampler;
  scanner_t scanners[4];
  start_sampler(&sampler, budget, limit);
  for (uint64_t i = 0; i < 4; i++) {
    start_scanner(&scanners[i], region, 77 + i * 1000, SLOW ? 1500 : 6000);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(scanners[i].thread, NULL);
  }
  stop_sampler(&sampler);
  EXPECT(counter(&region->counters.evictions) > 500);
  EXPECT_EQ(numbers_of(budget).used, counter(&region->counters.resident) + counter(&region->counters.staged));
  EXPECT_EQ(counter(&region->charged), numbers_of(budget).used);
  EXPECT(close_region(region));
  EXPECT_EQ(numbers_of(budget).used, 0);
  EXPECT_EQ(numbers_of(budget).staged, 0);
  pf_budget_drop(budget);
}

/* What the kernel has of the range: what was evicted must be gone, not only counted as gone. */
static uint64_t resident_in_kernel(const pf_region_t *region) {
  uint64_t resident = 0;
  for (size_t at = 0; at < region->length; at += PAGE) {
    resident += pf_mem_resident(region->base + at, PAGE) == 1;
  }
  return resident * PAGE;
}

static void really_gone(pf_backend_t backend) {
  uint64_t limit = 64 * PAGE, len = 1000 * PAGE;
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget));
  for (uint64_t page = 0; page < 1000; page++) {
    touch(region, page * PAGE);
    if (page % 100 == 99) {
      EXPECT(resident_in_kernel(region) <= limit); /* mincore sees the object's pages, so this is true of both backends */
    }
  }
  EXPECT_EQ(resident_in_kernel(region), counter(&region->counters.resident) + (region->backend != PF_BACKEND_SIGNAL ? counter(&region->counters.staged) : 0));
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* The least that a budget allows is some of its largest pages a thread: thousands of small ones, were they to have all of that. Each of them can go later. */
static void many_small_for_few_large(pf_backend_t backend) {
  uint64_t limit = 4 << 20, len = 64 << 20, large = (uint64_t)1 << PF_PAGE_SHIFT_MAX;
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *few = open_region(backend, memory_source(large), large, OPTIONS(.budget = budget, .page_size = large));
  pf_region_t *many = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget));
  pf_budget_crowd(few, 8);
  for (uint64_t page = 0; page < len / PAGE; page += 2) { /* no two neighbours, which would be one entry */
    touch(many, page * PAGE);
  }
  EXPECT(budget->fifo.used <= budget->fifo.capacity);
  EXPECT_EQ(budget->fifo.pages, counter(&many->counters.resident) / PAGE);
  EXPECT_EQ(touch(few, 5), pattern(5));
  pf_budget_crowd(few, -8);
  EXPECT(close_region(few));
  EXPECT(close_region(many));
  EXPECT_EQ(numbers_of(budget).used, 0);
  pf_budget_drop(budget);
}

static void shared_by_page_sizes(pf_backend_t backend) {
  uint64_t limit = 16 << 20;
  pf_budget_t *budget = make_budget(limit);
  size_t sizes[] = {PAGE, 16 * PAGE, (size_t)1 << PF_PAGE_SHIFT_MAX};
  pf_region_t *regions[3];
  scanner_t scanners[3];
  sampler_t sampler;
  for (size_t i = 0; i < 3; i++) {
    regions[i] = open_region(backend, memory_source(24 << 20), 24 << 20, OPTIONS(.budget = budget, .page_size = sizes[i], .readahead = -1));
  }
  start_sampler(&sampler, budget, limit);
  for (size_t i = 0; i < 3; i++) {
    start_scanner(&scanners[i], regions[i], 5 + i, i == 2 ? 100 : SLOW ? 600 : 2000);
  }
  for (size_t i = 0; i < 3; i++) {
    pthread_join(scanners[i].thread, NULL);
  }
  uint64_t charged = 0;
  for (size_t i = 0; i < 3; i++) {
    charged += counter(&regions[i]->charged);
    EXPECT(counter(&regions[i]->counters.evictions) > 0);
  }
  stop_sampler(&sampler);
  EXPECT_EQ(numbers_of(budget).used, charged);
  EXPECT(close_region(regions[1]));
  for (uint64_t page = 0; page < 500; page++) { /* the others have its room now */
    touch(regions[0], page * PAGE);
  }
  EXPECT(close_region(regions[0]));
  EXPECT(close_region(regions[2]));
  EXPECT_EQ(numbers_of(budget).used, 0);
  pf_budget_drop(budget);
}

/* A budget of a few small pages, and a neighbour whose pages are large: room is four of the largest. */
static void far_too_small(pf_backend_t backend) {
  pf_budget_t *budget = make_budget(PAGE);
  uint64_t len = 32 << 20, bound = PF_BUDGET_PAGES_MIN << PF_PAGE_SHIFT_MAX;
  pf_region_t *large = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget, .page_size = (size_t)1 << PF_PAGE_SHIFT_MAX));
  pf_region_t *small = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget));
  sampler_t sampler;
  start_sampler(&sampler, budget, bound);
  uint64_t seed = 3, latest = pf_now_ns() + SOON;
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < (SLOW ? 2500 : 4000) && (i < 200 || pf_now_ns() < latest); i++) { /* neighbours never follow each other: the queue is as long as it can be */
      uint64_t page = (random_next(&seed) % (len / PAGE / 2)) * 2;
      EXPECT_EQ(touch(small, page * PAGE), pattern(page * PAGE));
    }
    for (uint64_t at = 0; at < len; at += (uint64_t)3 << PF_PAGE_SHIFT_MAX) {
      EXPECT_EQ(touch(large, at), pattern(at));
    }
  }
  stop_sampler(&sampler);
  EXPECT(close_region(small));
  EXPECT(close_region(large));
  EXPECT_EQ(numbers_of(budget).used, 0);
  pf_budget_drop(budget);
}

/* --- first in, first out ---------------------------------------------------------------------------------------------------------- */

static void first_in_first_out(pf_backend_t backend) {
  enum { PAGES = 600 };
  uint64_t limit = 64 * PAGE, seed = 12345, order[PAGES];
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, memory_source(PAGES * PAGE), PAGES * PAGE, OPTIONS(.budget = budget));
  for (uint64_t i = 0; i < PAGES; i++) {
    order[i] = i;
  }
  for (uint64_t i = PAGES - 1; i > 0; i--) {
    uint64_t other = random_next(&seed) % (i + 1), kept = order[i];
    order[i] = order[other];
    order[other] = kept;
  }
  for (uint64_t i = 0; i < PAGES; i++) {
    atomic_store(&region->load_cost_ns, 0); /* an instrumented build is slow enough for staging */
    touch(region, order[i] * PAGE);
    uint64_t present = counter(&region->counters.resident) / PAGE;
    EXPECT(present >= 4 || present == i + 1);
    for (uint64_t j = 0; j <= i; j++) { /* exactly the last ones */
      EXPECT_EQ(state_of(region, order[j]) == PF_PRESENT, j + present > i);
    }
    touch(region, order[i - present + 1] * PAGE); /* using the oldest does not make it younger */
  }
  EXPECT_EQ(counter(&region->counters.loads), PAGES);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* --- staging ------------------------------------------------------------------------------------------------------------------------- */

static bool serve_dear(test_store_t *store, const pf_order_t *order) {
  (void)store;
  (void)order;
  pf_sleep_until(pf_now_ns() + 200000);
  return true;
}

static void staged_and_stolen(pf_backend_t backend) {
  enum { PAGES = 256, HOT = 12 };
  uint64_t limit = 64 * PAGE, seed = 7;
  test_store_t store = {.serve = serve_dear};
  start_store(&store);
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, OPTIONS(.budget = budget));
  sampler_t sampler;
  start_sampler(&sampler, budget, limit);
  uint64_t hot_reads = 0;
  for (int i = 0; i < 3000; i++) { /* a few hot pages, and a stream of cold ones */
    bool hot = i % 2 == 0;
    uint64_t page = hot ? random_next(&seed) % HOT : HOT + random_next(&seed) % (PAGES - HOT);
    uint64_t reads = counter(&region->counters.store_reads);
    uint64_t offset = page * PAGE + random_next(&seed) % PAGE;
    unsigned before = state_of(region, page);
    EXPECT_EQ(touch(region, offset), pattern(offset));
    reads = counter(&region->counters.store_reads) - reads;
    EXPECT_EQ(reads, before == PF_ABSENT); /* a staged page comes back without the store */
    hot_reads += hot ? reads : 0;
    EXPECT(counter(&region->counters.staged) <= limit / 4 + 8 * PAGE);
  }
  stop_sampler(&sampler);
  EXPECT(counter(&region->counters.steals) > 50);
  EXPECT(hot_reads < 300);
  EXPECT_EQ(numbers_of(budget).staged, counter(&region->counters.staged));
  uint64_t staged = 0;
  for (uint64_t page = 0; page < PAGES; page++) {
    staged += state_of(region, page) == PF_STAGED;
  }
  EXPECT_EQ(staged * PAGE, counter(&region->counters.staged));
  EXPECT(staged > 0);
  uint64_t used = numbers_of(budget).used;
  EXPECT_EQ(pf_region_release(region, 0, PAGES), used);
  EXPECT_EQ(numbers_of(budget).used, 0);
  EXPECT_EQ(numbers_of(budget).staged, 0);
  EXPECT_EQ(first_difference(region, 0, 20 * PAGE, 0, PAGES * PAGE), 20 * PAGE);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
  stop_store(&store);
}

/* Threads steal what others stage: every page is right all the same. */
static void stolen_by_many(pf_backend_t backend) {
  test_store_t store = {.serve = serve_dear};
  start_store(&store);
  uint64_t limit = 40 * PAGE, len = 120 * PAGE;
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, pager_source(&store), len, OPTIONS(.budget = budget));
  sampler_t sampler;
  scanner_t scanners[4];
  start_sampler(&sampler, budget, limit);
  for (uint64_t i = 0; i < 4; i++) {
    start_scanner(&scanners[i], region, 3 + i, SLOW ? 200 : 500);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(scanners[i].thread, NULL);
  }
  stop_sampler(&sampler);
  EXPECT(counter(&region->counters.steals) > 0);
  EXPECT_EQ(counter(&region->charged), numbers_of(budget).used);
  EXPECT_EQ(numbers_of(budget).used, counter(&region->counters.resident) + counter(&region->counters.staged));
  EXPECT(close_region(region));
  EXPECT_EQ(numbers_of(budget).used, 0);
  pf_budget_drop(budget);
  stop_store(&store);
}

/* --- pins ------------------------------------------------------------------------------------------------------------------------------ */

static void pinned_stay(pf_backend_t backend) {
  uint64_t limit = 256 * PAGE, len = 3000 * PAGE;
  pf_budget_t *budget = make_budget(limit);
  pf_region_t *region = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget));
  EXPECT_EQ(pf_pin_add(region, 100, 140), 0);
  EXPECT_EQ(pf_pin_add(region, 120, 160), 0); /* overlapping: counted once */
  EXPECT_EQ(counter(&region->counters.pinned_pages), 60);
  EXPECT_EQ(numbers_of(budget).pinned, 60 * PAGE);
  for (uint64_t page = 100; page < 160; page++) {
    touch(region, page * PAGE);
  }
  uint64_t loads = counter(&region->counters.loads);
  for (uint64_t page = 200; page < 3000; page++) {
    touch(region, page * PAGE);
  }
  for (uint64_t page = 100; page < 160; page++) {
    EXPECT_EQ(state_of(region, page), PF_PRESENT);
  }
  EXPECT_EQ(counter(&region->counters.loads), loads + 2800);
  pf_pin_remove(region, 100, 140);
  EXPECT_EQ(numbers_of(budget).pinned, 40 * PAGE);
  for (uint64_t page = 200; page < 1000; page++) {
    touch(region, page * PAGE);
  }
  EXPECT_EQ(state_of(region, 100), PF_ABSENT);
  EXPECT_EQ(state_of(region, 120), PF_PRESENT);
  pf_pin_remove(region, 120, 160);
  EXPECT_EQ(numbers_of(budget).pinned, 0);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* What may be pinned can be had: else pin() succeeds and the load behind it waits for room that never comes. */
static void pins_fit(pf_backend_t backend) {
  uint64_t limits[] = {16 * PAGE, 64 * PAGE, 1024 * PAGE};
  for (size_t i = 0; i < 3; i++) {
    uint64_t pages = limits[i] / PAGE;
    pf_budget_t *budget = make_budget(limits[i]);
    pf_region_t *region = open_region(backend, memory_source(2 * limits[i]), 2 * limits[i], OPTIONS(.budget = budget));
    uint64_t most = pages - PF_BUDGET_PAGES_MIN;
    EXPECT_EQ(pf_pin_add(region, 0, most + 1), -EDQUOT);
    EXPECT_EQ(numbers_of(budget).pinned, 0);
    EXPECT_EQ(counter(&region->counters.pinned_pages), 0);
    EXPECT_EQ(pf_pin_add(region, 0, most - 2), 0);
    EXPECT_EQ(pf_pin_add(region, 3, most), 0); /* what is pinned already does not count again */
    EXPECT_EQ(pf_pin_add(region, 3, most + 1), -EDQUOT);
    EXPECT_EQ(numbers_of(budget).pinned, most * PAGE);
    EXPECT_EQ(counter(&region->counters.pinned_pages), most);
    pf_why_t why = {0};
    uint64_t there = 0;
    while (there < most && ensure(region, there, LONG_MS, false, &why)) {
      there++;
    }
    EXPECT_EQ(there, most);
    EXPECT(ensure(region, 2 * pages - 1, LONG_MS, false, &why)); /* and others still come and go */
    EXPECT(ensure(region, 2 * pages - 9, LONG_MS, false, &why));
    pf_pin_remove(region, 0, most - 2);
    pf_pin_remove(region, 3, most);
    EXPECT_EQ(numbers_of(budget).pinned, 0);
    EXPECT(close_region(region));
    pf_budget_drop(budget);
  }
}

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  _Atomic int *turn, *tried, *had; /* turn -1: the end */
} pinner_t;

static void *pin_in_turns(void *data) {
  pinner_t *pinner = data;
  for (int last = 0, turn;; last = turn) {
    for (unsigned looks = 1; (turn = atomic_load(pinner->turn)) == last; looks++) {
      if (looks % 1000 == 0) {
        sched_yield();
      }
    }
    if (turn < 0) {
      return NULL;
    }
    atomic_fetch_add(pinner->had, pf_pin_add(pinner->region, 0, 1) == 0);
    atomic_fetch_add(pinner->tried, 1);
  }
}

/* One page more may be pinned, and two threads want it in the same moment: one of them gets it. */
static void last_room(pf_backend_t backend) {
  pf_budget_t *budget = make_budget(16 * PAGE);
  pf_region_t *rest = open_region(backend, zero_source(), 64 * PAGE, OPTIONS(.budget = budget));
  uint64_t most = 16 - PF_BUDGET_PAGES_MIN - 1, latest = pf_now_ns() + SOON;
  _Atomic int turn = 0, tried = 0, had = 0;
  pinner_t pinners[2];
  EXPECT_EQ(pf_pin_add(rest, 0, most), 0);
  for (int i = 0; i < 2; i++) {
    pinners[i] = (pinner_t){.region = open_region(backend, zero_source(), PAGE, OPTIONS(.budget = budget)), .turn = &turn, .tried = &tried, .had = &had};
    must(pthread_create(&pinners[i].thread, NULL, pin_in_turns, &pinners[i]) == 0, "a thread");
  }
  for (int round = 1; round <= 3000 && (round <= 100 || pf_now_ns() < latest); round++) {
    atomic_store(&had, 0);
    atomic_store(&tried, 0);
    atomic_store(&turn, round);
    while (atomic_load(&tried) < 2) {
      sched_yield();
    }
    EXPECT_EQ(atomic_load(&had), 1);
    for (int i = 0; i < 2; i++) {
      if (counter(&pinners[i].region->counters.pinned_pages) > 0) {
        pf_pin_remove(pinners[i].region, 0, 1);
      }
    }
  }
  atomic_store(&turn, -1);
  for (int i = 0; i < 2; i++) {
    pthread_join(pinners[i].thread, NULL);
    EXPECT(close_region(pinners[i].region));
  }
  pf_pin_remove(rest, 0, most);
  EXPECT_EQ(numbers_of(budget).pinned, 0);
  EXPECT(close_region(rest));
  pf_budget_drop(budget);
}

/* --- as small as can be ---------------------------------------------------------------------------------------------------------------- */

UNWATCHED static uint64_t read_across(const uint8_t *addr) {
  uint64_t value;
#if defined(__x86_64__)
  __asm__ volatile("movq (%1), %0" : "=r"(value) : "r"(addr) : "memory"); /* one instruction, two pages */
#else
  memcpy(&value, addr, sizeof value);
#endif
  return value;
}

static void one_page(pf_backend_t backend) {
  enum { PAGES = 64 };
  pf_budget_t *budget = make_budget(PAGE);
  pf_region_t *region = open_region(backend, memory_source(PAGES * PAGE), PAGES * PAGE, OPTIONS(.budget = budget, .readahead = -1));
  sampler_t sampler;
  start_sampler(&sampler, budget, PF_BUDGET_PAGES_MIN * PAGE);
  for (uint64_t page = 1; page < PAGES; page++) {
    uint64_t offset = page * PAGE - 3, expected = 0;
    for (unsigned i = 0; i < 8; i++) {
      expected |= (uint64_t)pattern(offset + i) << (8 * i);
    }
    EXPECT(read_across(region->base + offset) == expected);
  }
  EXPECT_EQ(numbers_of(budget).used, PF_BUDGET_PAGES_MIN * PAGE);
  stop_sampler(&sampler);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

static void all_held(pf_backend_t backend) {
  pf_budget_t *budget = make_budget(PAGE);
  pf_region_t *region = open_region(backend, memory_source(16 * PAGE), 16 * PAGE, OPTIONS(.budget = budget));
  pf_why_t why = {0};
  for (uint64_t page = 0; page < PF_BUDGET_PAGES_MIN; page++) {
    EXPECT_EQ(pf_page_hold(region, page), 0);
    EXPECT(ensure(region, page, LONG_MS, false, &why));
  }
  uint64_t started = pf_now_ns();
  EXPECT(!ensure(region, 9, 200, false, &why));
  uint64_t took = pf_now_ns() - started;
  EXPECT_EQ(why.code, PF_E_BUDGET);
  EXPECT(took >= 200 * MS && took < SOON);
  EXPECT_EQ(state_of(region, 9), PF_ABSENT); /* nothing is wrong with the page */
  EXPECT_EQ(numbers_of(budget).used, PF_BUDGET_PAGES_MIN * PAGE);
  _Atomic uint32_t cancel = 1;
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 20000 * MS, .cancel = &cancel};
  EXPECT(!pf_page_ensure(region, 9, &wait, &why));
  EXPECT_EQ(why.code, PF_E_ABORTED);
  pf_page_unhold(region, 2);
  EXPECT(ensure(region, 9, LONG_MS, false, &why));
  EXPECT_EQ(state_of(region, 2), PF_ABSENT);
  pf_page_unhold(region, 0);
  pf_page_unhold(region, 1);
  pf_page_unhold(region, 3);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* --- members ------------------------------------------------------------------------------------------------------------------------------ */

static void come_and_go(pf_backend_t backend) {
  enum { REGIONS = 40 };
  pf_budget_t *budget = make_budget(128 * PAGE);
  pf_region_t *regions[REGIONS] = {NULL};
  uint64_t seed = 4242;
  sampler_t sampler;
  start_sampler(&sampler, budget, 128 * PAGE);
  for (int i = 0; i < (SLOW ? 400 : 1000); i++) {
    uint64_t at = random_next(&seed) % REGIONS;
    if (regions[at] == NULL) {
      uint64_t len = (1 + random_next(&seed) % 50) * PAGE;
      regions[at] = open_region(backend, memory_source(len), len, OPTIONS(.budget = budget, .readahead = -1));
    } else if (random_next(&seed) % 4 == 0) {
      EXPECT(close_region(regions[at]));
      regions[at] = NULL;
    } else {
      uint64_t len = regions[at]->byte_length;
      EXPECT_EQ(first_difference(regions[at], 0, len, 0, len), len);
    }
  }
  for (int i = 0; i < REGIONS; i++) {
    EXPECT(regions[i] == NULL || close_region(regions[i]));
  }
  stop_sampler(&sampler);
  EXPECT_EQ(numbers_of(budget).used, 0);
  uint64_t id = pf_budget_id(budget);
  pf_budget_t *found = pf_budget_by_id(id);
  EXPECT(found == budget);
  pf_budget_drop(found);
  pf_budget_drop(budget);
  EXPECT(pf_budget_by_id(id) == NULL);
}

int main(void) {
  test_each("the bound holds at every moment while four threads scan", never_exceeded);
  test_each("what was evicted is gone from memory", really_gone);
  test_each("regions of three page sizes share one budget", shared_by_page_sizes);
  test_each("small pages that may use the room of a few large ones can all go later", many_small_for_few_large);
  test_each("a budget that is far too small for a neighbour's pages still evicts", far_too_small);
  test_each("pages go in the order in which they came", first_in_first_out);
  test_each("where loads are dear hot pages are stolen back without a read", staged_and_stolen);
  test_each("four threads stealing from each other see the right bytes", stolen_by_many);
  test_each("pinned pages stay, and are counted once", pinned_stay);
  test_each("what may be pinned can be loaded", pins_fit);
  test_on(PF_BACKEND_MPROTECT, "of two that pin the last room at the same time one has it", last_room);
  test_each("a budget of one page counts as four", one_page);
  test_each("when everything is held a load fails at its deadline, and works when something is let go", all_held);
  test_each("regions join and leave a budget", come_and_go);
  return summary();
}

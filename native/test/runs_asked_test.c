/* sanitizers: address,thread,none */
/* Pages that a pager is asked for in one read, because nobody waits for them: they come together, or not at all and alone later. */
#include "support.h"
#include "touched.h"

#define PAGES 128ULL
#define RUN 16ULL
#define RUNS() OPTIONS(.longest_read = RUN * PAGE + 100)

static bool bring(pf_region_t *region, uint64_t first, uint64_t end) {
  pf_wait_t wait = {.background = true};
  sigset_t before;
  uint32_t done = 1;
  pf_mask_signals(&before);
  for (uint64_t page = first; done > 0 && page < end; page += done) {
    done = pf_pages_bring_ahead(region, page, region->window_max, &wait);
  }
  pf_restore_signals(&before);
  return done > 0;
}

/* What a thread of ours waits for that works its way through the pages. */
static bool load(pf_region_t *region, uint64_t page, uint32_t window, uint64_t timeout_ms, pf_why_t *why) {
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + timeout_ms * MS, .heal = true, .background = true, .window = window};
  sigset_t before;
  pf_mask_signals(&before);
  bool there = pf_page_ensure(region, page, &wait, why);
  pf_restore_signals(&before);
  return there;
}

static bool are_there(void *data) {
  pf_region_t *region = data;
  for (uint64_t page = 0; page < region->page_count; page++) {
    if (state_of(region, page) != PF_PRESENT) {
      return false;
    }
  }
  return true;
}

static bool are_absent(void *data) {
  pf_region_t *region = data;
  for (uint64_t page = 0; page < RUN; page++) {
    if (state_of(region, page) != PF_ABSENT) {
      return false;
    }
  }
  return true;
}

/* The last page is short, and two behind the store's end are zero. */
static void come_together(pf_backend_t backend) {
  test_store_t store = {.buffer_len = RUN * PAGE};
  start_store(&store);
  uint64_t have = (PAGES - 2) * PAGE - 300;
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, OPTIONS(.longest_read = RUN * PAGE + 100, .store_length = have));
  EXPECT_EQ(region->ask_max, RUN);
  EXPECT(bring(region, 0, PAGES));
  EXPECT(wait_until(are_there, region, 20000));
  EXPECT_EQ(counter(&region->counters.store_reads), (PAGES - 2 + RUN - 1) / RUN);
  EXPECT_EQ(counter(&region->counters.loads), PAGES);
  EXPECT_EQ(counter(&region->counters.readahead_pages), PAGES - 2);
  EXPECT_EQ(counter(&region->counters.bytes_read), have);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, have), PAGES * PAGE);
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* One that works its way through the pages asks for runs, too; a thread that is stopped for a page, for that alone. */
static void waited_for(pf_backend_t backend) {
  test_store_t store = {.buffer_len = RUN * PAGE};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, RUNS());
  pf_why_t why = {0};
  EXPECT_EQ(touch(region, 5 * PAGE), pattern(5 * PAGE));
  EXPECT_EQ(counter(&region->counters.loads), 1);
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT(load(region, page, region->window_max, 20000, &why));
  }
  EXPECT(counter(&region->counters.store_reads) <= PAGES / RUN + 3);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  stop_store(&store);
}

/* Refuses whatever is longer than a page. */
static bool only_pages(test_store_t *store, const pf_order_t *order) {
  if (order->length > PAGE) {
    pf_pager_fail(atomic_load(&store->pager), order->slot, (pf_why_t){.code = PF_E_STORE}, "not so many", NULL, false);
  }
  return order->length <= PAGE;
}

static void cannot_be_had(pf_backend_t backend) {
  test_store_t store = {.serve = only_pages, .buffer_len = RUN * PAGE};
  start_store(&store);
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, RUNS());
  pf_why_t why = {0};
  EXPECT(bring(region, 0, RUN));
  EXPECT(wait_until(are_absent, region, 20000));
  EXPECT_EQ(counter(&region->counters.failures), 0);
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT(load(region, page, region->window_max, 20000, &why));
  }
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  stop_store(&store);
}

typedef struct {
  pf_order_t kept;
  _Atomic uint32_t has, go;
} later_t;

/* Keeps the first run until it is told to answer it. */
static bool keep_run(test_store_t *store, const pf_order_t *order) {
  later_t *later = store->data;
  if (order->length == PAGE || atomic_load(&later->has)) {
    return true;
  }
  later->kept = *order;
  atomic_store(&later->has, 1);
  while (!atomic_load(&later->go)) {
    pf_sleep_until(pf_now_ns() + MS / 10);
  }
  return true;
}

static bool has_run(void *data) { return atomic_load(&((later_t *)data)->has) != 0; }

typedef struct {
  later_t later;
  test_store_t store;
} kept_t;

/* A region whose first run is with the store, which keeps it. */
static pf_region_t *ask_run(kept_t *kept, pf_backend_t backend) {
  *kept = (kept_t){.store = {.serve = keep_run, .data = &kept->later, .buffer_len = RUN * PAGE}};
  start_store(&kept->store);
  pf_region_t *region = open_region(backend, pager_source(&kept->store), PAGES * PAGE, RUNS());
  EXPECT(bring(region, 0, RUN));
  EXPECT(wait_until(has_run, &kept->later, 20000));
  return region;
}

static void went_stale(pf_backend_t backend) {
  kept_t kept;
  pf_region_t *region = ask_run(&kept, backend);
  EXPECT_EQ(pf_pager_has(region, RUN - 1), true);
  EXPECT_EQ(pf_pager_has(region, RUN), false);
  pf_region_invalidate(region, 5, 6);
  atomic_store(&kept.later.go, 1);
  EXPECT(wait_until(are_absent, region, 20000));
  EXPECT_EQ(counter(&region->counters.loads), 0);
  EXPECT_EQ(counter(&region->counters.resident), 0);
  EXPECT_EQ(first_difference(region, 0, RUN * PAGE, 0, RUN * PAGE), RUN * PAGE);
  EXPECT(close_region(region));
  stop_store(&kept.store);
}

/* Whoever needs one of them waits for the run no longer than his time is, and then asks alone: the store is busy, and his time is over. */
static void given_up(pf_backend_t backend) {
  kept_t kept;
  pf_why_t why = {0};
  pf_region_t *region = ask_run(&kept, backend);
  EXPECT(!ensure(region, 7, 50, false, &why));
  EXPECT_EQ(why.code, PF_E_TIMEOUT);
  for (uint64_t page = 0; page < RUN; page++) {
    EXPECT_EQ(state_of(region, page), page == 7 ? PF_FAILED : PF_ABSENT);
  }
  atomic_store(&kept.later.go, 1);
  EXPECT(load(region, 7, 1, 20000, &why));
  EXPECT_EQ(first_difference(region, 0, RUN * PAGE, 0, RUN * PAGE), RUN * PAGE);
  EXPECT(close_region(region));
  stop_store(&kept.store);
}

static void pager_dies(pf_backend_t backend) {
  kept_t kept;
  pf_region_t *region = ask_run(&kept, backend);
  sigset_t before;
  pf_mask_signals(&before);
  pf_pager_kill(atomic_load(&kept.store.pager), "it was killed");
  pf_restore_signals(&before);
  for (uint64_t page = 0; page < RUN; page++) {
    EXPECT_EQ(state_of(region, page), PF_FAILED);
  }
  EXPECT_EQ(counter(&region->counters.failed_pages), RUN);
  atomic_store(&kept.later.go, 1);
  EXPECT(close_region(region));
  stop_store(&kept.store);
}

/* A budget of less than a run: what does not fit is not asked for. */
static void little_room(pf_backend_t backend) {
  test_store_t store = {.buffer_len = RUN * PAGE};
  start_store(&store);
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, pager_source(&store), PAGES * PAGE, OPTIONS(.longest_read = RUN * PAGE, .budget = budget));
  pf_why_t why = {0};
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT(load(region, page, region->window_max, 20000, &why));
    EXPECT(counter(&region->counters.resident) <= 64 * PAGE);
  }
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
  stop_store(&store);
}

int main(void) {
  test_each("pages that nobody waits for come in one read, up to the store's end", come_together);
  test_each("whoever loads a range asks for runs, whoever is stopped for one page", waited_for);
  test_each("a run that cannot be had is asked for a page at a time", cannot_be_had);
  test_each("a run of which a page went stale is not opened", went_stale);
  test_each("a run that is late holds nobody beyond his deadline", given_up);
  test_each("the pages of a run fail when their pager dies", pager_dies);
  test_each("a budget has no room for more of a run than fits", little_room);
  return summary();
}

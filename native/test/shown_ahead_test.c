/*
 * Pages of shared memory that somebody has filled are shown together with the page that was asked for: how far that goes, where it stops, and what becomes of it
 * when the memory, the budget or other threads are in the way.
 */
#include "support.h"

enum { PAGES = 256 };

static int patch(pf_region_t *region, uint64_t page, uint64_t count, pf_object_t *object, uint64_t offset) {
  sigset_t before;
  pf_mask_signals(&before);
  int err = pf_region_patch(region, page, count, object, offset);
  pf_restore_signals(&before);
  return err;
}

static pf_object_t *make_object(void) {
  pf_object_t *object = NULL;
  must(pf_object_create(PAGES * PAGE, &object) == 0, "shared memory");
  return object;
}

static pf_region_t *open_over(pf_backend_t backend, pf_object_t *object, pf_region_options_t options) {
  pf_region_t *region = open_region(backend, memory_source(PAGES * PAGE), PAGES * PAGE, options);
  if (patch(region, 0, PAGES, object, 0) != 0) {
    EXPECT(close_region(region));
    return NULL;
  }
  return region;
}

static void fill_all(pf_backend_t backend, pf_object_t *object) {
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 0));
  must(region != NULL, "a patch");
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT_EQ(pf_object_filled(object), PAGES * PAGE);
  EXPECT(close_region(region));
}

/* Where the kernel cannot lay memory over a region there is nothing to show. */
static bool works(pf_backend_t backend) {
  pf_object_t *object = make_object();
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 0));
  bool works = region != NULL;
  if (works) {
    EXPECT(close_region(region));
  }
  pf_object_drop(object);
  return works;
}

static bool load(pf_region_t *region, uint64_t page, uint32_t window) {
  sigset_t before;
  pf_why_t why;
  pf_mask_signals(&before);
  pf_wait_t wait = {.deadline_ns = pf_now_ns() + 20000 * MS, .window = window};
  bool there = pf_page_ensure(region, page, &wait, &why);
  pf_restore_signals(&before);
  return there;
}

static uint64_t present(const pf_region_t *region) {
  uint64_t count = 0;
  for (uint64_t page = 0; page < region->page_count; page++) {
    count += state_of(region, page) == PF_PRESENT;
  }
  return count;
}

static void as_far_as_the_window(pf_backend_t backend) {
  pf_object_t *object = make_object();
  fill_all(backend, object);
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 0));
  EXPECT(load(region, 10, 1));
  EXPECT_EQ(present(region), 1);
  EXPECT(load(region, 20, 64));
  EXPECT_EQ(present(region), 65);
  EXPECT(load(region, 12, 64)); /* up to the next that is there */
  EXPECT_EQ(present(region), 73);
  EXPECT(load(region, PAGES - 3, 64));
  EXPECT_EQ(present(region), 76);
  EXPECT_EQ(counter(&region->counters.loads), 76);
  EXPECT_EQ(counter(&region->counters.readahead_pages), 72);
  EXPECT_EQ(counter(&region->counters.store_reads), 0);
  EXPECT_EQ(counter(&region->counters.resident), 76 * PAGE);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  pf_object_drop(object);
}

static void an_adaptive_reader(pf_backend_t backend) {
  pf_object_t *object = make_object();
  fill_all(backend, object);
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = -1));
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(counter(&region->counters.faults) < 16);
  EXPECT(close_region(region));
  pf_object_drop(object);
}

/* Pages that nobody filled, pages under other memory or none. */
static void stops_where_it_ends(pf_backend_t backend) {
  pf_object_t *object = make_object(), *other = make_object();
  fill_all(backend, other);
  pf_region_t *first = open_over(backend, object, OPTIONS(.readahead = 0));
  for (uint64_t page = 0; page < 40; page++) {
    EXPECT_EQ(touch(first, page * PAGE), pattern(page * PAGE));
  }
  pf_region_t *region = open_region(backend, memory_source(PAGES * PAGE), PAGES * PAGE, OPTIONS(.readahead = 0));
  EXPECT_EQ(patch(region, 0, 64, object, 0), 0);
  EXPECT_EQ(patch(region, 64, 16, other, 64 * PAGE), 0);
  EXPECT_EQ(patch(region, 80, 16, other, 80 * PAGE), 0);
  EXPECT(load(region, 0, 64));
  EXPECT_EQ(present(region), 40);
  EXPECT_EQ(pf_object_filled(object), 40 * PAGE);
  EXPECT(load(region, 64, 64));
  EXPECT(load(region, 80, 64));
  EXPECT_EQ(present(region), 72);
  EXPECT(load(region, 63, 64)); /* read: the next is there */
  EXPECT_EQ(pf_object_filled(object), 41 * PAGE);
  EXPECT_EQ(first_difference(region, 0, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  EXPECT(close_region(first));
  pf_object_drop(object);
  pf_object_drop(other);
}

/* Somebody else takes pages out of the memory: they read zero, and are counted as what they are. */
static void holes_read_zero(pf_backend_t backend) {
  pf_object_t *object = make_object();
  fill_all(backend, object);
  must(fallocate(pf_object_fd(object), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 30 * (off_t)PAGE, 2 * (off_t)PAGE) == 0, "a hole");
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 0));
  EXPECT(load(region, 0, 64));
  EXPECT_EQ(present(region), 64);
  EXPECT_EQ(first_difference(region, 0, 30 * PAGE, 0, 30 * PAGE), 30 * PAGE);
  EXPECT_EQ(first_difference(region, 30 * PAGE, 32 * PAGE, 0, 0), 32 * PAGE);
  EXPECT_EQ(first_difference(region, 32 * PAGE, PAGES * PAGE, 0, PAGES * PAGE), PAGES * PAGE);
  EXPECT(close_region(region));
  pf_object_drop(object);
}

static void no_more_than_the_budget(pf_backend_t backend) {
  pf_object_t *object = make_object();
  pf_budget_t *budget;
  fill_all(backend, object);
  must(pf_budget_create(24 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 63 * (int64_t)PAGE, .budget = budget));
  pf_budget_numbers_t numbers;
  for (uint64_t page = 0; page < PAGES; page++) {
    EXPECT_EQ(touch(region, page * PAGE), pattern(page * PAGE));
    pf_budget_numbers(budget, &numbers);
    EXPECT(numbers.used <= 24 * PAGE);
    EXPECT_EQ(present(region) * PAGE, counter(&region->counters.resident));
  }
  EXPECT(close_region(region));
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  pf_budget_drop(budget);
  pf_object_drop(object);
}

static _Atomic uint64_t wrong;
static _Atomic bool over;

static void *touch_all(void *data) {
  pf_region_t *region = data;
  uint64_t seed = (uintptr_t)pthread_self() | 1;
  while (!atomic_load(&over)) {
    uint64_t offset = random_next(&seed) % PAGES * PAGE;
    atomic_fetch_add(&wrong, touch(region, offset) != pattern(offset));
  }
  return NULL;
}

/* Shown ahead by some threads while others touch, release, invalidate and evict. */
static void under_a_crowd(pf_backend_t backend) {
  pf_object_t *object = make_object();
  pf_budget_t *budget;
  fill_all(backend, object);
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_over(backend, object, OPTIONS(.readahead = 15 * (int64_t)PAGE, .budget = budget));
  pthread_t threads[4];
  atomic_store(&over, false);
  for (int i = 0; i < 4; i++) {
    must(pthread_create(&threads[i], NULL, touch_all, region) == 0, "a thread");
  }
  uint64_t seed = 77;
  for (uint64_t until = pf_now_ns() + 300 * MS; pf_now_ns() < until;) {
    uint64_t first = random_next(&seed) % PAGES, end = first + 1 + random_next(&seed) % (PAGES - first);
    sigset_t before;
    pf_mask_signals(&before);
    if (seed & 1) {
      pf_region_release(region, first, end);
    } else {
      pf_region_invalidate(region, first, end);
    }
    pf_restore_signals(&before);
    load(region, first, 64);
  }
  atomic_store(&over, true);
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(atomic_load(&wrong), 0);
  EXPECT_EQ(present(region) * PAGE, counter(&region->counters.resident));
  EXPECT(close_region(region));
  pf_budget_drop(budget);
  pf_object_drop(object);
}

int main(void) {
  static const struct {
    const char *sentence;
    void (*body)(pf_backend_t);
  } tests[] = {
      {"as many are shown as are to be loaded at once", as_far_as_the_window},
      {"a reader in order is shown more and more of them", an_adaptive_reader},
      {"nothing is shown that nobody filled, or that lies elsewhere", stops_where_it_ends},
      {"pages that were taken out of the memory are shown as zeroes", holes_read_zero},
      {"pages shown ahead count in the budget", no_more_than_the_budget},
      {"they come and go under many threads", under_a_crowd},
  };
  for (pf_backend_t backend = PF_BACKEND_SIGNAL; backend <= PF_BACKEND_MEMFD; backend++) {
    const char *suffix = backend == PF_BACKEND_SIGNAL ? " [signal]" : backend == PF_BACKEND_MPROTECT ? " [mprotect]" : " [memfd]";
    strcpy(current_test, "setting up");
    if (backend != PF_BACKEND_MPROTECT && pf_own_uffd_start(PF_OWN_SYNC) != 0) {
      continue;
    }
    if (!works(backend)) {
      continue;
    }
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
      run_one(tests[i].sentence, suffix, tests[i].body, backend);
    }
  }
  return summary();
}

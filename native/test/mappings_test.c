/* sanitizers: address,none */
/*
 * mprotect past the kernel's limit on mappings (vm.max_map_count): 600 MiB read at alternate pages, so that no two mappings can merge.
 * Not under ThreadSanitizer, whose shadow memory is many times what is touched here.
 */
#include "support.h"

#define PAGES ((uint64_t)153600) /* 600 MiB */
#define ENOUGH ((uint64_t)70000) /* of them, at alternate pages, are more mappings than the kernel's default limit */
#define TILE 256                 /* pages of the store that are different */

/* Many pages from little memory: the store's bytes are one object mapped over and over. */
static uint8_t *tiled;

static pf_source_t tiled_source(void) {
  size_t len = TILE * PAGE;
  if (tiled == NULL) {
    int fd = memfd_create("tiles", MFD_CLOEXEC);
    must(fd >= 0 && ftruncate(fd, (off_t)len) == 0, "an object");
    tiled = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    must(tiled != MAP_FAILED, "address space");
    for (uint64_t at = 0; at < PAGES * PAGE; at += len) {
      must(mmap(tiled + at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED, "a tile");
    }
    fill_pattern(tiled, 0, len);
    close(fd);
  }
  return (pf_source_t){.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = tiled};
}

static uint8_t tile_byte(uint64_t page, uint64_t within) { return pattern(page % TILE * PAGE + within); }

static uint64_t limit_on_mappings(void) {
  FILE *file = fopen("/proc/sys/vm/max_map_count", "re");
  unsigned long long limit = 0;
  must(file != NULL && fscanf(file, "%llu", &limit) == 1, "the limit");
  fclose(file);
  return limit;
}

/* True when every page can be handed to a system call. */
static bool readable_by_the_kernel(const pf_region_t *region, uint64_t first, uint64_t end) {
  int ends[2];
  must(pipe2(ends, O_CLOEXEC) == 0, "a pipe");
  static uint8_t back[64 * 1024];
  bool right = true;
  for (uint64_t page = first; page < end && right; page++) {
    right = write(ends[1], region->base + page * PAGE, PAGE) == (ssize_t)PAGE && read(ends[0], back, PAGE) == (ssize_t)PAGE &&
            back[7] == tile_byte(page, 7);
  }
  close(ends[0]);
  close(ends[1]);
  return right;
}

static uint64_t wrong_pages(pf_region_t *region, uint64_t first, uint64_t end, uint64_t step) {
  uint64_t wrong = 0;
  for (uint64_t page = first; page < end; page += step) {
    wrong += touch(region, page * PAGE + page % PAGE) != tile_byte(page, page % PAGE);
  }
  return wrong;
}

static void past_the_limit(pf_backend_t backend) {
  unsigned mappings = count_mappings();
  pf_region_t *region = open_region(backend, tiled_source(), PAGES * PAGE, OPTIONS());
  EXPECT_EQ(wrong_pages(region, 0, PAGES, 2), 0);
  EXPECT_EQ(counter(&region->counters.loads), PAGES / 2);
  uint64_t collapses = counter(&region->counters.collapses);
  EXPECT(backend != PF_BACKEND_MPROTECT || collapses > 0 || limit_on_mappings() > PAGES);
  EXPECT_EQ(wrong_pages(region, 0, PAGES, 2), 0); /* what was closed comes back without a read */
  EXPECT_EQ(counter(&region->counters.loads), PAGES / 2);
  uint64_t seed = 1;
  for (int i = 0; i < 20000; i++) {
    uint64_t page = random_next(&seed) % PAGES;
    EXPECT_EQ(touch(region, page * PAGE), tile_byte(page, 0));
    if (i % 7 == 0) {
      pf_region_release(region, page, page + 1);
    }
  }
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  EXPECT(count_mappings() <= mappings + PAGES / TILE + 60); /* the tiles, and the allocator of an instrumented build */
}

static void pinned_stay_open(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, tiled_source(), PAGES * PAGE, OPTIONS());
  pf_why_t why;
  EXPECT_EQ(pf_pin_add(region, 1000, 1100), 0);
  for (uint64_t page = 1000; page < 1100; page++) {
    EXPECT(ensure(region, page, LONG_MS, false, &why));
  }
  EXPECT(readable_by_the_kernel(region, 1000, 1100));
  EXPECT_EQ(wrong_pages(region, 0, ENOUGH, 2), 0);
  EXPECT(backend != PF_BACKEND_MPROTECT || counter(&region->counters.collapses) > 0 || limit_on_mappings() > ENOUGH);
  EXPECT(readable_by_the_kernel(region, 1000, 1100));
  pf_pin_remove(region, 1000, 1100);
  EXPECT(close_region(region));
}

typedef struct {
  _Atomic int done;
  pf_job_t job;
} pin_t;

static void pin_done(pf_job_t *job) {
  pin_t *pin = (pin_t *)((char *)job - offsetof(pin_t, job));
  atomic_store(&pin->done, 1);
}

static bool is_done(void *data) { return atomic_load(&((pin_t *)data)->done) != 0; }

/* As pin() does it: pages that were loaded long ago, and closed by a collapse since. */
static void pinned_after_a_collapse(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, tiled_source(), PAGES * PAGE, OPTIONS());
  EXPECT_EQ(wrong_pages(region, 0, ENOUGH, 2), 0);
  EXPECT_EQ(wrong_pages(region, 30001, 50000, 2), 0);
  static const uint64_t starts[] = {0, 29950, 45000, 60000, 153000};
  for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
    uint64_t first = starts[i], end = first + 100;
    pin_t pin = {.job = {.region = region, .first = first, .end = end, .kind = PF_JOB_PIN, .done = pin_done}};
    EXPECT_EQ(pf_pin_add(region, first, end), 0);
    EXPECT_EQ(pf_loader_submit(&pin.job), 0);
    EXPECT(wait_until(is_done, &pin, 20000));
    EXPECT_EQ(pin.job.why.code, PF_OK);
    EXPECT(readable_by_the_kernel(region, first, end));
    pf_pin_remove(region, first, end);
  }
  EXPECT(close_region(region));
}

/* Several regions take part: the one that needs a mapping closes what others have open. */
static void many_regions(pf_backend_t backend) {
  pf_region_t *regions[5];
  uint64_t pages = ENOUGH / 5;
  for (int i = 0; i < 5; i++) {
    regions[i] = open_region(backend, tiled_source(), pages * PAGE, OPTIONS());
  }
  uint64_t wrong = 0;
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 5; i++) {
      for (uint64_t page = 0; page < pages; page += 2) {
        wrong += touch(regions[i], page * PAGE + 3) != tile_byte(page, 3);
      }
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int i = 0; i < 5; i++) {
    EXPECT_EQ(counter(&regions[i]->counters.loads), pages / 2);
    EXPECT(close_region(regions[i]));
  }
}

typedef struct {
  pthread_t thread;
  pf_region_t *region;
  uint64_t first;
  uint64_t wrong;
} reader_t;

static void *read_alternate(void *data) {
  reader_t *reader = data;
  reader->wrong = wrong_pages(reader->region, reader->first, ENOUGH, 8);
  return NULL;
}

/* Threads collapse under each other, with a budget that evicts meanwhile. */
static void many_threads(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(ENOUGH * PAGE * 15 / 32, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, tiled_source(), PAGES * PAGE, OPTIONS(.budget = budget));
  reader_t readers[4];
  for (uint64_t i = 0; i < 4; i++) {
    readers[i] = (reader_t){.region = region, .first = 2 * i};
    must(pthread_create(&readers[i].thread, NULL, read_alternate, &readers[i]) == 0, "a thread");
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(readers[i].thread, NULL);
    EXPECT_EQ(readers[i].wrong, 0);
  }
  EXPECT_EQ(counter(&region->counters.failures), 0);
  EXPECT(close_region(region));
  pf_budget_drop(budget);
}

/* A page that was opened with zeroes because it cannot be had is closed by a collapse like any other. */
static void zeroed_after_a_collapse(pf_backend_t backend) {
  pf_source_t source = file_source(PAGE); /* shorter than the region says: all but the first page fail */
  source.check = false;
  pf_region_t *region = open_region(backend, source, PAGES * PAGE, OPTIONS(.unreadable_zero = true, .store_length = PAGES * PAGE));
  EXPECT_EQ(touch(region, 3 * PAGE), 0);
  EXPECT_EQ(state_of(region, 3), PF_FAILED);
  pf_region_t *other = open_region(backend, tiled_source(), PAGES * PAGE, OPTIONS());
  EXPECT_EQ(wrong_pages(other, 0, ENOUGH, 2), 0);
  pf_mem_protect(region->base, region->length, backend == PF_BACKEND_MPROTECT ? PROT_NONE : PROT_READ); /* as a collapse does */
  EXPECT_EQ(touch(region, 3 * PAGE), 0);
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT(close_region(other));
  EXPECT(close_region(region));
}

int main(void) {
  test_each("600 MiB read at alternate pages are right", past_the_limit);
  test_each("pinned pages stay open when the others are closed", pinned_stay_open);
  test_each("pages that were closed are open once they are pinned", pinned_after_a_collapse);
  test_each("regions make room for each other's mappings", many_regions);
  test_each("four threads and a budget past the limit see the right bytes", many_threads);
  test_each("a page opened with zeroes is opened again", zeroed_after_a_collapse);
  return summary();
}

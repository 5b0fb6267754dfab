/* sanitizers: address,thread,none */
/* Thousands of regions come and go, under threads that read them: nothing is found in the wrong place and nothing is left behind. */
#include "support.h"

#define CROWD (SLOW ? 2000 : 10000)

static uint64_t memory_kib(void) {
  FILE *file = fopen("/proc/self/status", "re");
  char line[128];
  unsigned long long kib = 0;
  while (fgets(line, sizeof line, file) != NULL) {
    if (sscanf(line, "RssAnon: %llu kB", &kib) == 1) {
      break;
    }
  }
  fclose(file);
  return kib;
}

static bool has_no_scratch(void *unused) {
  (void)unused;
  return pf_scratch_count() == 0;
}

static void one_after_the_other(pf_backend_t backend) {
  static uint8_t bytes[3 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  unsigned mappings = 0, descriptors = 0;
  uint64_t memory = 0;
  for (int i = 0; i < CROWD; i++) {
    pf_region_t *region = open_region(backend, source, 3 * PAGE, OPTIONS());
    EXPECT_EQ(touch(region, 2 * PAGE + 7), pattern(2 * PAGE + 7));
    EXPECT(close_region(region));
    if (i == CROWD / 10) { /* what is made once is there by now */
      mappings = count_mappings();
      descriptors = count_descriptors();
      memory = memory_kib();
    }
  }
  EXPECT(count_mappings() <= mappings + (SLOW ? 40 : 8)); /* a leak would be hundreds */
  EXPECT_EQ(count_descriptors(), descriptors);
  EXPECT(memory_kib() <= memory + (SLOW ? 20000 : 256));
  EXPECT(wait_until(has_no_scratch, NULL, LONG_MS)); /* the core's own thread may be at it */
}

static void all_at_once(pf_backend_t backend) {
  static pf_region_t *regions[10000];
  static uint8_t bytes[2 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
  unsigned mappings = count_mappings(), descriptors = count_descriptors(), open = pf_region_count();
  uint64_t seed = 17;
  for (int i = 0; i < CROWD; i++) {
    regions[i] = open_region(backend, source, 2 * PAGE, OPTIONS());
  }
  EXPECT_EQ(pf_region_count(), open + (unsigned)CROWD);
  for (int i = 0; i < CROWD; i++) {
    pf_region_t *region = regions[(i * 7919) % CROWD];
    EXPECT_EQ(touch(region, (uint64_t)(i % 2) * PAGE + 1), pattern((uint64_t)(i % 2) * PAGE + 1));
    pf_region_t *found = pf_region_at((uintptr_t)region->base + random_next(&seed) % region->length);
    EXPECT(found == region);
    pf_region_leave(found);
    EXPECT(pf_region_at((uintptr_t)region->base + region->length) == NULL); /* the guard page */
  }
  for (int i = 0; i < CROWD; i++) {
    uintptr_t base = (uintptr_t)regions[i]->base;
    uint64_t id = atomic_load(&regions[i]->id);
    EXPECT(close_region(regions[i]));
    EXPECT(pf_region_at(base) == NULL);
    EXPECT(pf_region_by_id(id) == NULL);
  }
  EXPECT_EQ(pf_region_count(), open);
  EXPECT(count_mappings() <= mappings + (SLOW ? 40 : 4));
  EXPECT(count_descriptors() <= descriptors + 2);
}

/* --- closed under threads ------------------------------------------------------------------------------------------------- */

#define READERS 8
#define SLOTS 16

static _Atomic uint64_t shelf[SLOTS]; /* ids */
static _Atomic int stop;
static _Atomic uint64_t read_well, read_closed;

static void *read_shelf(void *data) {
  uint64_t seed = (uint64_t)(uintptr_t)data * 2654435761 + 1;
  sigset_t before;
  while (!atomic_load(&stop)) {
    uint64_t id = atomic_load(&shelf[random_next(&seed) % SLOTS]);
    pf_mask_signals(&before);
    pf_region_t *region = pf_region_by_id(id);
    if (region != NULL) {
      uint8_t copy[40];
      uint64_t offset = random_next(&seed) % (region->byte_length - sizeof copy), page;
      pf_why_t why;
      if (pf_region_copy_out(region, offset, copy, sizeof copy, &page, &why)) {
        for (size_t i = 0; i < sizeof copy; i++) {
          EXPECT_EQ(copy[i], pattern(offset + i));
        }
        atomic_fetch_add(&read_well, 1);
      } else {
        EXPECT_EQ(why.code, PF_E_CLOSED);
        atomic_fetch_add(&read_closed, 1);
      }
      pf_region_leave(region);
    }
    pf_restore_signals(&before);
  }
  return NULL;
}

static bool is_well_read(void *unused) {
  (void)unused;
  return atomic_load(&read_well) > 100;
}

static void under_readers(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pthread_t readers[READERS];
  atomic_store(&stop, 0);
  atomic_store(&read_well, 0);
  for (uintptr_t i = 0; i < READERS; i++) {
    must(pthread_create(&readers[i], NULL, read_shelf, (void *)(i + 1)) == 0, "a thread");
  }
  uint64_t seed = 5;
  unsigned open = pf_region_count();
  static uint8_t bytes[64 * 4096];
  fill_pattern(bytes, 0, sizeof bytes);
  pf_region_t *regions[SLOTS] = {NULL};
  for (int i = 0; i < (SLOW ? 1000 : 4000); i++) {
    uint64_t at = random_next(&seed) % SLOTS;
    if (regions[at] != NULL) {
      uint64_t id = atomic_load(&regions[at]->id);
      pf_region_close(regions[at], true); /* the readers find it for a while yet */
      pf_region_leave(regions[at]);
      pf_region_memory_gone(id);
    }
    uint64_t len = (2 + random_next(&seed) % 62) * PAGE;
    pf_source_t source = {.kind = PF_SOURCE_MEMORY, .fd = -1, .bytes = bytes};
    regions[at] = open_region(backend, source, len, OPTIONS(.budget = i % 2 == 0 ? budget : NULL, .readahead = -1));
    atomic_store(&shelf[at], atomic_load(&regions[at]->id));
  }
  EXPECT(wait_until(is_well_read, NULL, LONG_MS));
  atomic_store(&stop, 1);
  for (int i = 0; i < READERS; i++) {
    pthread_join(readers[i], NULL);
  }
  for (int i = 0; i < SLOTS; i++) {
    EXPECT(regions[i] == NULL || close_region(regions[i]));
  }
  pf_region_reap();
  EXPECT_EQ(pf_region_count(), open);
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  EXPECT_EQ(numbers.used, 0);
  pf_budget_drop(budget);
}

/* A holder more keeps it open; the last one closes it; force closes it whoever holds it. */
static void holders(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT(pf_region_hold(region));
  EXPECT(!pf_region_close(region, false));
  EXPECT_EQ(touch(region, 0), pattern(0));
  EXPECT(pf_region_close(region, false));
  EXPECT(!pf_region_close(region, false));
  EXPECT(!pf_region_hold(region));
  EXPECT_EQ(checked_byte(region, PAGE), -1 - PF_E_CLOSED);
  EXPECT(close_region(region));
  region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  EXPECT(pf_region_hold(region));
  EXPECT(pf_region_close(region, true));
  EXPECT(close_region(region));
}

static bool is_uncharged(void *budget) {
  pf_budget_numbers_t numbers;
  pf_budget_numbers(budget, &numbers);
  return numbers.used == 0;
}

/* Closed and shared: what it held is given back although its addresses stay. */
static void drained(pf_backend_t backend) {
  char path[64];
  make_path(path);
  write_file(path, 0, 64 * PAGE);
  unsigned descriptors = count_descriptors();
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, file_source_at(path, 0), 64 * PAGE, OPTIONS(.shared = true, .budget = budget));
  uint64_t id = atomic_load(&region->id);
  EXPECT_EQ(first_difference(region, 0, 20 * PAGE, 0, 64 * PAGE), 20 * PAGE);
  uint8_t *base = region->base;
  EXPECT(pf_region_close(region, true));
  pf_region_leave(region);
  pf_region_reap();
  EXPECT(wait_until(is_uncharged, budget, LONG_MS));
  EXPECT_EQ(count_descriptors(), descriptors); /* the file is closed; the core made its own before */
  for (size_t at = 0; at < 64 * PAGE; at += PAGE) {
    EXPECT_EQ(pf_mem_resident(base + at, PAGE), 0);
  }
  pf_region_memory_gone(id);
  EXPECT(pf_region_by_id(id) == NULL);
  EXPECT(pf_mem_resident(base, PAGE) != 1);
  pf_budget_drop(budget);
  unlink(path);
}

/* Closed while somebody is inside, by a process that wants its handlers looked after twice an hour. */
static void left_last(pf_backend_t backend) {
  pf_budget_t *budget;
  must(pf_budget_create(64 * PAGE, &budget) == 0, "a budget");
  pf_region_t *region = open_region(backend, memory_source(8 * PAGE), 8 * PAGE, OPTIONS(.shared = true, .budget = budget, .poll_ms = 1800000));
  uint64_t id = atomic_load(&region->id);
  EXPECT_EQ(touch(region, PAGE), pattern(PAGE));
  pf_sleep_until(pf_now_ns() + 50 * MS); /* whoever looks is asleep by now */
  pf_region_t *inside = pf_region_by_id(id);
  EXPECT(pf_region_close(region, true));
  pf_region_leave(region);
  pf_region_reap();
  EXPECT(!is_uncharged(budget));
  pf_region_leave(inside);
  EXPECT(wait_until(is_uncharged, budget, LONG_MS)); /* nobody but the core looks */
  pf_region_memory_gone(id);
  pf_budget_drop(budget);
}

/* What /proc says of the mapping at the address: its permissions, or "" where there is none. */
static void mapping_at(const uint8_t *addr, char out[8]) {
  FILE *maps = fopen("/proc/self/maps", "re");
  char line[512];
  must(maps != NULL, "/proc/self/maps");
  out[0] = '\0';
  while (fgets(line, sizeof line, maps) != NULL) {
    unsigned long long start, end;
    char flags[8];
    if (sscanf(line, "%llx-%llx %7s", &start, &end, flags) == 3 && start <= (uintptr_t)addr && (uintptr_t)addr < end) {
      memcpy(out, flags, sizeof flags);
    }
  }
  fclose(maps);
}

static bool is_barred(const uint8_t *addr) {
  char flags[8];
  mapping_at(addr, flags);
  return strcmp(flags, "---p") == 0;
}

/* As when a buffer is detached under somebody who has its address. */
static uint8_t *close_outlived(pf_region_t *region) {
  uint8_t *base = region->base;
  pf_region_outlived(region);
  EXPECT(close_region(region));
  return base;
}

static void outlived(pf_backend_t backend) {
  pf_region_t *region = open_region(backend, memory_source(64 * PAGE), 64 * PAGE, OPTIONS(.writable = true, .name = "outlived"));
  uint64_t id = atomic_load(&region->id);
  unsigned descriptors = count_descriptors();
  EXPECT_EQ(first_difference(region, 0, 20 * PAGE, 0, 64 * PAGE), 20 * PAGE);
  uint8_t *base = close_outlived(region);
  EXPECT(is_barred(base) && is_barred(base + 63 * PAGE));
  EXPECT_EQ(pf_mem_resident(base, PAGE), 0);
  EXPECT(count_descriptors() <= descriptors);
  pf_near_t near;
  EXPECT(pf_near((uintptr_t)base + 5, 0, &near) && near.reserved && near.distance == 0);
  EXPECT_EQ(strcmp(near.name, "outlived"), 0);
  int fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  EXPECT(read(fd, base, PAGE) == -1 && errno == EFAULT); /* a system call that comes too late */
  close(fd);
  pf_region_unused(id);
  EXPECT(!is_barred(base));
  EXPECT(pf_near((uintptr_t)base + 5, 0, &near) && !near.reserved);
  /* Told before the last one has left. */
  region = open_region(backend, memory_source(4 * PAGE), 4 * PAGE, OPTIONS());
  id = atomic_load(&region->id);
  pf_region_outlived(region);
  pf_region_unused(id);
  base = region->base;
  EXPECT(close_region(region) && !is_barred(base));
}

/* Addresses that are never given back are not kept for ever: the oldest go, and all of them where there are none left. */
static void outlived_often(pf_backend_t backend) {
  uint8_t *first = close_outlived(open_region(backend, zero_source(), 4000 * PAGE, OPTIONS())), *last = NULL; /* more than what comes to lie there later */
  EXPECT(is_barred(first));
  for (int i = 0; i < 300; i++) {
    last = close_outlived(open_region(backend, zero_source(), 2 * PAGE, OPTIONS()));
  }
  EXPECT(is_barred(last) && !is_barred(first));
  uint8_t *vast = close_outlived(open_region(backend, zero_source(), (uint64_t)1 << 41, OPTIONS()));
  EXPECT(is_barred(vast) && !is_barred(last));
  EXPECT(pf_near_release_all());
  EXPECT(!is_barred(vast) && !pf_near_release_all());
}

int main(void) {
  test_each("regions opened, touched and closed one after the other leave nothing behind", one_after_the_other);
  test_each("thousands of regions are open at once, each found by its addresses alone", all_at_once);
  test_each("regions closed under eight reading threads end as closed, never as wrong bytes", under_readers);
  test_each("a region is open as long as somebody holds it", holders);
  test_each("a closed region whose memory stays gives everything else back", drained);
  test_each("a region whose last user leaves after it was closed gives everything back soon, however seldom it is looked after", left_last);
  test_each("the addresses of a region that was closed under native code stay barred until nobody can use them", outlived);
  if (!TSAN) { /* its shadow has no room for a region of two tebibytes */
    test_each("addresses of closed regions are not kept for ever", outlived_often);
  }
  return summary();
}

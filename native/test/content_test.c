/* sanitizers: address,thread,none */
/* A touch sees the bytes of the store: every source, page size, tail and read-ahead, on every backend. */
#include "support.h"

typedef enum { FILES, MEMORY, ZEROES, KINDS } kind_t;

static pf_source_t make_source(kind_t kind, uint64_t len) {
  return kind == FILES ? file_source(len) : kind == MEMORY ? memory_source(len) : zero_source();
}

static uint64_t known_bytes(kind_t kind, uint64_t len) { return kind == ZEROES ? 0 : len; }

static void every_page_size(pf_backend_t backend) {
  for (size_t size = PAGE; size <= (size_t)1 << PF_PAGE_SHIFT_MAX; size *= 2) {
    for (kind_t kind = FILES; kind < KINDS; kind++) {
      uint64_t len = 2 * size + 123;
      pf_region_t *region = open_region(backend, make_source(kind, len), len, OPTIONS(.page_size = size));
      EXPECT_EQ(region->page_count, 3);
      EXPECT_EQ((uintptr_t)region->base % size, 0);
      EXPECT_EQ(touch(region, size + 1), kind == ZEROES ? 0 : pattern(size + 1));
      EXPECT_EQ(counter(&region->counters.loads), 1);
      EXPECT_EQ(counter(&region->counters.faults), 1);
      EXPECT_EQ(first_difference(region, 0, region->length, 0, known_bytes(kind, len)), region->length);
      EXPECT_EQ(counter(&region->counters.loads), 3);
      EXPECT_EQ(counter(&region->counters.faults), 3);
      EXPECT_EQ(counter(&region->counters.resident), region->length);
      EXPECT(close_region(region));
    }
  }
}

static void padded_tail(pf_backend_t backend) {
  size_t sizes[] = {PAGE, 4 * PAGE, (size_t)1 << PF_PAGE_SHIFT_MAX};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (kind_t kind = FILES; kind < KINDS; kind++) {
      uint64_t have = sizes[i] + sizes[i] / 2 + 5, len = 5 * sizes[i];
      pf_region_t *region = open_region(backend, make_source(kind, have), len, OPTIONS(.page_size = sizes[i], .store_length = have));
      EXPECT_EQ(first_difference(region, 4 * sizes[i], len, 0, known_bytes(kind, have)), len);
      EXPECT_EQ(counter(&region->counters.store_reads), 0);
      EXPECT_EQ(first_difference(region, 0, len, 0, known_bytes(kind, have)), len);
      EXPECT_EQ(counter(&region->counters.bytes_read), known_bytes(kind, have));
      EXPECT(close_region(region));
    }
  }
}

static void within_a_file(pf_backend_t backend) {
  char path[64];
  make_path(path);
  uint64_t len = 20 * PAGE;
  write_file(path, 0, len);
  uint64_t offsets[] = {0, 1, PAGE - 1, 3 * PAGE + 77, len - 10};
  for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
    uint64_t part = len - offsets[i];
    pf_region_t *region = open_region(backend, file_source_at(path, offsets[i]), part, OPTIONS(.readahead = -1));
    EXPECT_EQ(first_difference(region, 0, part, offsets[i], part), part);
    EXPECT(close_region(region));
  }
  unlink(path);
}

static void read_ahead(pf_backend_t backend) {
  uint64_t pages = 700, len = pages * PAGE - 9;
  int64_t ahead[] = {0, 1, (int64_t)(3 * PAGE), (int64_t)(1000 * PAGE), -1};
  for (size_t i = 0; i < sizeof ahead / sizeof *ahead; i++) {
    pf_region_t *region = open_region(backend, file_source(len), len, OPTIONS(.readahead = ahead[i]));
    EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
    EXPECT_EQ(counter(&region->counters.loads), pages);
    EXPECT_EQ(counter(&region->counters.bytes_read), len);
    bool ahead_of_it = ahead[i] < 0 || (uint64_t)ahead[i] >= PAGE;
    EXPECT_EQ(counter(&region->counters.store_reads) == pages, !ahead_of_it);
    EXPECT_EQ(counter(&region->counters.readahead_pages) + counter(&region->counters.store_reads), pages);
    EXPECT(close_region(region));
  }
}

static void random_stays_alone(pf_backend_t backend) {
  uint64_t pages = 4096, seed = 88172645463325252ULL;
  pf_region_t *region = open_region(backend, zero_source(), pages * PAGE, OPTIONS(.readahead = -1));
  for (int i = 0; i < 200; i++) {
    uint64_t page = random_next(&seed) % (pages / 4) * 4 + 1; /* never a neighbour of another */
    EXPECT_EQ(touch(region, page * PAGE), 0);
  }
  EXPECT_EQ(counter(&region->counters.readahead_pages), 0);
  EXPECT(close_region(region));
}

static void checked_reads(pf_backend_t backend) {
  uint64_t len = 40 * PAGE + 3, page;
  pf_region_t *region = open_region(backend, memory_source(len), len, OPTIONS(.readahead = -1));
  static uint8_t copy[64 * 4096];
  uint64_t seed = 1;
  for (int i = 0; i < 300; i++) {
    uint64_t from = random_next(&seed) % len, part = random_next(&seed) % (len - from + 1);
    part = part < sizeof copy ? part : sizeof copy;
    pf_why_t why;
    memset(copy, 0xee, sizeof copy);
    EXPECT(pf_region_copy_out(region, from, copy, part, &page, &why));
    uint64_t same = 0;
    while (same < part && copy[same] == pattern(from + same)) {
      same++;
    }
    EXPECT_EQ(same, part);
    EXPECT(part == sizeof copy || copy[part] == 0xee);
    if (i % 50 == 0) {
      pf_region_release(region, 0, region->page_count);
    }
  }
  EXPECT_EQ(counter(&region->counters.faults), 0);
  EXPECT(close_region(region));
}

static void into_memory_that_exists(pf_backend_t backend) {
  size_t len = 64 * PAGE;
  uint8_t *memory = mmap(NULL, len + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  memset(memory, 0x5a, len + PAGE);
  pf_region_t *region = open_region(backend, memory_source(len), len, OPTIONS(.into = memory, .into_length = len, .shared = true));
  EXPECT(region->base == memory);
  EXPECT_EQ(first_difference(region, 0, len, 0, len), len);
  EXPECT_EQ(memory[len], 0x5a);
  pf_region_options_t again = {.backend = backend, .source = zero_source(), .byte_length = PAGE, .store_length = PAGE, .page_size = PAGE,
                               .timeout_ms = 1000, .name = "", .store_name = "", .into = memory + 3 * PAGE, .into_length = PAGE};
  pf_region_t *second;
  const char *step;
  EXPECT_EQ(pf_region_create(&again, &second, &step), -EBUSY);
  EXPECT_EQ(touch(region, 3 * PAGE + 1), pattern(3 * PAGE + 1));
  EXPECT(close_region(region));
  munmap(memory, len + PAGE);
}

int main(void) {
  test_each("every page size gives the bytes of every source, page by page", every_page_size);
  test_each("behind the end of the store a segment reads zeroes that the store is not asked for", padded_tail);
  test_each("a part of a file begins at any offset", within_a_file);
  test_each("a sequential reader gets each byte once, whatever is read ahead", read_ahead);
  test_each("a random reader makes nothing be read ahead", random_stays_alone);
  test_each("checked reads copy any range without a fault", checked_reads);
  test_each("memory that exists is paged, its neighbours are left alone, and it is paged once", into_memory_that_exists);
  return summary();
}

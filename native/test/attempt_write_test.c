/*
 * Writes inside an attempt to pages of a writable region that cannot be had: they go on and are thrown away, good pages keep theirs, and
 * the attempt ends with the failure. Outside of one, and of what cannot be let go on, the process ends. The instructions themselves are
 * the step test's to try.
 */
#include "support.h"

#if defined(__x86_64__)

enum { HAD = 2, ALL = 8 }; /* pages */

/* Written out, so that sanitizers do not look at the region. */

static void store(uint8_t *at, uint64_t value) { __asm__ volatile("movq %0, (%1)" : : "r"(value), "r"(at) : "memory"); }

static void fill(uint8_t *at, uint8_t value, uint64_t len) {
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
}

static void copy(uint8_t *to, const uint8_t *from, uint64_t len) {
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
}

static uint64_t add(uint8_t *at, uint64_t value) {
  __asm__ volatile("lock xaddq %0, (%1)" : "+&r"(value) : "r"(at) : "memory", "cc");
  return value;
}

static uint64_t or(uint8_t *at, uint64_t bits) {
  uint64_t found;
  __asm__ volatile("1: movq (%2), %%rax\n movq %%rax, %%rcx\n orq %1, %%rcx\n lock cmpxchgq %%rcx, (%2)\n jne 1b"
                   : "=&a"(found)
                   : "r"(bits), "r"(at)
                   : "rcx", "memory", "cc");
  return found;
}

/* Of a file that is shorter than it should be. */
static pf_region_t *open_short(pf_backend_t backend) {
  pf_source_t source = file_source(HAD * PAGE);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", source.fd);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  must(fd >= 0, "a file to write");
  close(source.fd);
  source.fd = fd;
  source.check = false;
  return open_region(backend, source, ALL * PAGE, OPTIONS(.writable = true));
}

/* Whether the attempt that ends here failed at this page. */
static bool failed_at(const pf_region_t *region, uint64_t page) {
  static pf_failure_t failure;
  return pf_attempt_end(&failure) && failure.region == atomic_load(&region->id) && failure.offset == page * PAGE;
}

static bool holds(const pf_region_t *region, uint64_t from, uint64_t end, uint8_t value) {
  for (uint64_t at = from; at < end; at++) {
    if (touch(region, at) != value) {
      return false;
    }
  }
  return true;
}

static void writes_go_on(pf_backend_t backend) {
  pf_region_t *region = open_short(backend);
  uint8_t *bad = region->base + 3 * PAGE;
  EXPECT_EQ(pf_attempt_begin(), 0);
  store(bad + 8, 77);
  EXPECT(failed_at(region, 3));

  EXPECT_EQ(pf_attempt_begin(), 0);
  EXPECT_EQ(add(bad + 8, 5), 0);
  EXPECT_EQ(add(bad + 8, 5), 0);
  EXPECT_EQ(or(bad + 8, 5), 0);
  EXPECT_EQ(touch(region, 3 * PAGE + 8), 0);
  EXPECT(failed_at(region, 3));

  EXPECT_EQ(pf_attempt_begin(), 0);
  fill(region->base + PAGE, 0x66, 3 * PAGE);
  copy(bad + PAGE, region->base + PAGE, PAGE);       /* from a good page */
  copy(bad + 2 * PAGE, bad, PAGE);                   /* from a bad one */
  copy(region->base, bad + 100, 50);                 /* from a bad page to a good one */
  EXPECT(failed_at(region, 2));

  EXPECT_EQ(pf_attempt_begin(), 0);
  EXPECT(holds(region, PAGE, 2 * PAGE, 0x66) && holds(region, 0, 50, 0) && touch(region, 50) == pattern(50));
  pf_failure_t none;
  EXPECT(!pf_attempt_end(&none)); /* good pages have been written all the while */
  EXPECT_EQ(pf_attempt_begin(), 0);
  EXPECT(holds(region, 2 * PAGE, ALL * PAGE, 0));
  EXPECT(failed_at(region, 2));
  EXPECT(close_region(region));
}

static int child(const char *name, pf_backend_t backend) {
  default_handlers();
  uint8_t *bad = open_short(backend)->base + 3 * PAGE;
  if (strcmp(name, "in an attempt") == 0) {
    must(pf_attempt_begin() == 0, "an attempt");
    __asm__ volatile("stmxcsr (%0)" : : "r"(bad) : "memory");
  } else {
    store(bad, 1);
  }
  return 0;
}

static void others_end_the_process(pf_backend_t backend) {
  ended_t ended;
  run_child("outside", backend, &ended);
  EXPECT(WIFSIGNALED(ended.status));
  EXPECT_TEXT(&ended, "attempt() throw a PageError instead");
  run_child("in an attempt", backend, &ended);
  EXPECT(WIFSIGNALED(ended.status));
  EXPECT_TEXT(&ended, "attempt() cannot let this instruction go on");
}

#endif

int main(int argc, char **argv) {
#if defined(__x86_64__)
  if (argc == 4) {
    return child(argv[2], backend_named(argv[3]));
  }
  test_each("writes to pages that cannot be had go on inside an attempt and are thrown away", writes_go_on);
  test_each("a write outside of an attempt, or one that cannot be let go on in it, ends the process", others_end_the_process);
#else
  (void)argc, (void)argv;
#endif
  return summary();
}

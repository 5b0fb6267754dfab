/*
 * Asking for memory that is at hand: it is found missing where it is, nothing is touched by the question, many spans, many threads.
 */
#include "support.h"

enum { PAGES = 512 };

static uint8_t *registered(void) {
  void *made;
  must(pf_mem_reserve(PAGES * PAGE, "test", &made) == 0, "memory");
  must(pf_own_uffd_start(PF_OWN_ASYNC) == 0 && pf_own_uffd_register(PF_OWN_ASYNC, made, PAGES * PAGE, false) == 0, "a registered range");
  return made;
}

static void fill(uint8_t *base, size_t first, size_t count) {
  uint8_t bytes[PAGE];
  size_t done;
  memset(bytes, 5, sizeof bytes);
  for (size_t page = first; page < first + count; page++) {
    must(pf_own_uffd_copy(PF_OWN_ASYNC, base + page * PAGE, bytes, PAGE, false, &done) == 0, "a page");
  }
}

static size_t every_other(uint8_t *base, pf_span_t *spans) {
  size_t count = 0;
  for (size_t page = 0; page < PAGES; page += 2) {
    spans[count++] = (pf_span_t){.addr = base + page * PAGE, .len = PAGE};
  }
  return count;
}

static void finds_what_is_missing(pf_backend_t backend) {
  (void)backend;
  uint8_t *base = registered();
  pf_span_t spans[PAGES / 2];
  size_t count = every_other(base, spans);
  EXPECT_EQ(pf_mem_at_hand(spans, count), 0);
  for (size_t page = 0; page < PAGES; page += 2) {
    fill(base, page, 1);
  }
  EXPECT_EQ(pf_mem_at_hand(spans, count), 1);
  EXPECT_EQ(pf_own_uffd_holds(base + PAGE, PAGE), 0); /* nothing else came */
  for (size_t missing = 0; missing < count; missing += 51) {
    pf_mem_drop(spans[missing].addr, PAGE);
    EXPECT_EQ(pf_mem_at_hand(spans, count), 0);
    EXPECT_EQ(pf_own_uffd_holds(spans[missing].addr, PAGE), 0);
    fill(base, 2 * missing, 1);
  }
  EXPECT_EQ(pf_mem_at_hand(spans, count), 1);
  pf_mem_unmap(base, PAGES * PAGE);
}

static void long_spans(pf_backend_t backend) {
  (void)backend;
  uint8_t *base = registered();
  pf_span_t spans[2] = {{.addr = base, .len = 300 * PAGE}, {.addr = base + 301 * PAGE, .len = 211 * PAGE}};
  fill(base, 0, 300);
  fill(base, 301, 211);
  EXPECT_EQ(pf_mem_at_hand(spans, 2), 1);
  pf_mem_drop(base + 511 * PAGE, PAGE);
  EXPECT_EQ(pf_mem_at_hand(spans, 2), 0);
  EXPECT_EQ(pf_mem_at_hand(spans, 1), 1);
  spans[0].len = 301 * PAGE;
  EXPECT_EQ(pf_mem_at_hand(spans, 1), 0);
  pf_mem_unmap(base, PAGES * PAGE);
}

static _Atomic uint64_t told[3]; /* missing, at hand, cannot tell */

static void *ask(void *data) {
  pf_span_t spans[PAGES / 2];
  size_t count = every_other(data, spans);
  for (int i = 0; i < 300; i++) {
    int hand = pf_mem_at_hand(spans, count);
    atomic_fetch_add(&told[hand < 0 ? 2 : hand], 1);
  }
  return NULL;
}

static void many_threads(pf_backend_t backend) {
  (void)backend;
  uint8_t *base = registered();
  pthread_t threads[4];
  fill(base, 0, PAGES);
  for (int i = 0; i < 4; i++) {
    must(pthread_create(&threads[i], NULL, ask, base) == 0, "a thread");
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
  EXPECT_EQ(atomic_load(&told[0]), 0);
  EXPECT(atomic_load(&told[1]) > 0);
  pf_mem_unmap(base, PAGES * PAGE);
}

int main(void) {
  unsigned before = pf_os_descriptors();
  run_one("missing pages are found, and stay so", "", finds_what_is_missing, PF_BACKEND_SIGNAL);
  run_one("spans may be longer than the pipe", "", long_spans, PF_BACKEND_SIGNAL);
  run_one("threads never hear of a page that it is missing when it is not", "", many_threads, PF_BACKEND_SIGNAL);
  must(pf_os_descriptors() > before + 3, "counted descriptors");
  return summary();
}

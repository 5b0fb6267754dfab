/*
 * The order in which faults are taken on whose pages a segment has to load: limits, turns, deadlines. Nothing is loaded; one thread.
 */
#include "support.h"

#include "../fetch_queue.h"

#define GUESTS 200

static pf_peer_t guests[GUESTS];

/* Guests [first, end) are of that segment. */
static void belong(size_t first, size_t end, uint64_t segment) {
  pf_snapshot_t *snapshot;
  must(pf_snapshot_of_segment(segment, PAGE, &snapshot) == 0, "a snapshot");
  for (size_t i = first; i < end; i++) {
    if (guests[i].snapshot != NULL) {
      pf_snapshot_drop(guests[i].snapshot);
    }
    pf_snapshot_hold(snapshot);
    guests[i].snapshot = snapshot;
  }
  pf_snapshot_drop(snapshot);
}

static void add(size_t guest, uint64_t page, uint64_t deadline_ns) {
  pf_fetch_t *fetch = malloc(sizeof *fetch);
  must(fetch != NULL, "memory");
  *fetch = (pf_fetch_t){.peer = &guests[guest], .page = page, .deadline_ns = deadline_ns};
  EXPECT(pf_fetch_add(fetch));
}

static size_t guest_of(const pf_fetch_t *fetch) { return (size_t)(fetch->peer - guests); }

static void done(pf_fetch_t *fetch) {
  pf_fetch_done(fetch);
  free(fetch);
}

/* All that may be, at most so many. */
static size_t take_all(pf_fetch_t **into, size_t most) {
  size_t count = 0;
  while (count < most && pf_fetch_may()) {
    into[count++] = pf_fetch_take();
  }
  return count;
}

static void finish(pf_fetch_t **taken, size_t count) {
  while (count > 0) {
    done(taken[--count]);
  }
}

static void drop_waiting(void) {
  for (pf_fetch_t *fetch = pf_fetch_take_late(UINT64_MAX); fetch != NULL; fetch = pf_fetch_take_late(UINT64_MAX)) {
    free(fetch);
  }
  EXPECT_EQ(pf_fetch_at_work(), 0);
  EXPECT(!pf_fetch_may());
}

/* The guests of a segment by turns, however much one of them wants; of one the oldest first. */
static void turns_of_guests(pf_backend_t backend) {
  (void)backend;
  belong(0, 2, 1);
  for (uint64_t page = 0; page < 100; page++) {
    add(0, page, 1);
  }
  add(1, 7, 1);
  add(1, 8, 1);
  const size_t guest[] = {0, 1, 0, 1, 0, 0}, page[] = {0, 7, 1, 8, 2, 3};
  for (size_t i = 0; i < sizeof guest / sizeof *guest; i++) {
    pf_fetch_t *fetch = pf_fetch_take();
    EXPECT_EQ(guest_of(fetch), guest[i]);
    EXPECT_EQ(fetch->page, page[i]);
    done(fetch);
  }
  drop_waiting();
}

/* So many at a time; segments by turns, and those first of which nothing is at work. */
static void limits(pf_backend_t backend) {
  (void)backend;
  static pf_fetch_t *taken[2 * PF_FETCH_MAX];
  for (size_t i = 0; i < GUESTS; i++) {
    belong(i, i + 1, i + 1);
  }
  for (uint64_t page = 0; page < 100; page++) {
    add(0, page, 1);
  }
  EXPECT_EQ(take_all(taken, 200), PF_FETCH_EACH);
  add(1, 0, 1);
  pf_fetch_t *fetch = pf_fetch_take();
  EXPECT_EQ(guest_of(fetch), 1);
  EXPECT(!pf_fetch_may());
  done(fetch);
  EXPECT(!pf_fetch_may());
  done(taken[PF_FETCH_EACH - 1]);
  EXPECT_EQ(take_all(taken + PF_FETCH_EACH - 1, 200), 1);
  for (size_t guest = 1; guest < PF_FETCH_MAX / 2; guest++) {
    for (uint64_t page = 0; page < 100; page++) {
      add(guest, page, 1);
    }
  }
  EXPECT_EQ(PF_FETCH_EACH + take_all(taken + PF_FETCH_EACH, 200), PF_FETCH_EACH + PF_FETCH_MAX / 2 - 1); /* one each */
  for (size_t guest = PF_FETCH_MAX / 2; guest < GUESTS; guest++) {
    add(guest, 0, 1);
    add(guest, 1, 1);
  }
  size_t count = pf_fetch_at_work();
  count += take_all(taken + count, 200);
  EXPECT_EQ(count, PF_FETCH_MAX);
  for (size_t i = PF_FETCH_EACH; i < PF_FETCH_MAX; i++) {
    EXPECT_EQ(guest_of(taken[i]), i - PF_FETCH_EACH + 1);
  }
  done(taken[0]); /* of a segment that has others at work: next is one that has none */
  taken[0] = pf_fetch_take();
  EXPECT_EQ(guest_of(taken[0]), PF_FETCH_MAX - PF_FETCH_EACH + 1);
  EXPECT(!pf_fetch_may());
  finish(taken, PF_FETCH_MAX);
  drop_waiting();
}

/* Whatever is added, taken on, and forgotten in between. */
static void deadlines(pf_backend_t backend) {
  (void)backend;
  uint64_t seed = 99, before = 0;
  belong(0, 20, 1);
  for (uint64_t i = 0; i < 5000; i++) {
    add(random_next(&seed) % 20, i, 1 + random_next(&seed) % 1000);
    if (i % 3 == 0) {
      done(pf_fetch_take());
    }
  }
  for (pf_fetch_t *fetch = pf_fetch_take_of(&guests[3]); fetch != NULL; fetch = pf_fetch_take_of(&guests[3])) {
    EXPECT_EQ(guest_of(fetch), 3);
    free(fetch);
  }
  EXPECT(pf_fetch_take_late(0) == NULL);
  while (pf_fetch_deadline() != UINT64_MAX) {
    uint64_t first = pf_fetch_deadline();
    EXPECT(first >= before);
    EXPECT(pf_fetch_take_late(first - 1) == NULL);
    pf_fetch_t *fetch = pf_fetch_take_late(first);
    EXPECT(fetch != NULL && fetch->deadline_ns == first && guest_of(fetch) != 3);
    before = first;
    free(fetch);
  }
  drop_waiting();
}

/* Many that wait cost no more each than a few: a hundred thousand of a segment that has all its threads, and others that come and go. */
static void flood(pf_backend_t backend) {
  (void)backend;
  static pf_fetch_t *taken[PF_FETCH_EACH];
  belong(0, 100, 1);
  belong(100, 200, 2);
  uint64_t began = pf_now_ns();
  for (uint64_t i = 0; i < 100000; i++) {
    add(i % 100, i, 1 + i);
    if (i < PF_FETCH_EACH) {
      taken[i] = pf_fetch_take();
    }
    add(100 + i % 100, i, 1 + i);
    pf_fetch_t *fetch = pf_fetch_take();
    EXPECT_EQ(guest_of(fetch), 100 + i % 100);
    done(fetch);
  }
  if (getenv("PF_TEST_TIMES") != NULL) {
    printf("  %llu ns each\n", (unsigned long long)(pf_now_ns() - began) / 200000);
  }
  finish(taken, PF_FETCH_EACH);
  drop_waiting();
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "the guests of a segment are taken on by turns", turns_of_guests);
  test_on(PF_BACKEND_MPROTECT, "a segment has no more than its share at work, and many leave others one", limits);
  test_on(PF_BACKEND_MPROTECT, "deadlines are found in their order", deadlines);
  test_on(PF_BACKEND_MPROTECT, "a hundred thousand that wait cost each other nothing", flood);
  for (size_t i = 0; i < GUESTS; i++) {
    pf_snapshot_drop(guests[i].snapshot);
  }
  return summary();
}

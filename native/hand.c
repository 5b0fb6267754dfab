/*
 * Asking whether memory is at hand without touching it. The kernel is asked to lend the pages to a pipe, which it does for many of them in one call,
 * and refuses where one is missing; what was lent is poured away at once. For pages without neighbours that is a quarter of what as many questions to
 * the page map cost. Any thread, a signal handler too. There is one pipe for the process: who finds it taken, or none, has to ask in another way.
 */
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <unistd.h>

#define LENT_MOST 64 /* pages in the pipe; a pipe has 16 places until more are asked for */

enum { UNTRIED, FREE, TAKEN, NONE };

static _Atomic int state;
static int ends[2], nowhere;
static size_t places;

static void close_pipe(void) {
  close(ends[0]);
  close(ends[1]);
  if (nowhere >= 0) {
    close(nowhere);
  }
}

/* *later: there is no descriptor for it now. */
static bool open_pipe(bool *later) {
  *later = false;
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) {
    *later = pf_os_is_exhausted(-errno);
    return false;
  }
  nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  *later = nowhere < 0 && pf_os_is_exhausted(-errno);
  int size = fcntl(ends[1], F_SETPIPE_SZ, (int)(LENT_MOST * pf_os_page_size())); /* fails for users that have many pipes */
  size = size > 0 ? size : fcntl(ends[1], F_GETPIPE_SZ);
  places = size > 0 ? (size_t)size / pf_os_page_size() : 0;
  places = places < LENT_MOST ? places : LENT_MOST;
  if (nowhere < 0 || places == 0) {
    close_pipe();
    return false;
  }
  return true;
}

static bool take_pipe(void) {
  int seen = atomic_load_explicit(&state, memory_order_relaxed);
  if ((seen != FREE && seen != UNTRIED) || !atomic_compare_exchange_strong_explicit(&state, &seen, TAKEN, memory_order_acquire, memory_order_relaxed)) {
    return false;
  }
  bool later;
  if (seen == UNTRIED && !open_pipe(&later)) {
    atomic_store(&state, later ? UNTRIED : NONE);
    return false;
  }
  return true;
}

/* 1 when the kernel lent all of it, 0 when it did not, -errno when the pipe is of no use. */
static int lend(const struct iovec *parts, size_t count, size_t bytes) {
  ssize_t lent = vmsplice(ends[1], parts, count, SPLICE_F_NONBLOCK);
  for (ssize_t left = lent; left > 0;) {
    ssize_t gone = splice(ends[0], NULL, nowhere, NULL, (size_t)left, SPLICE_F_NONBLOCK);
    if (gone <= 0) {
      return -EIO;
    }
    left -= gone;
  }
  if (lent < 0 && errno != EFAULT) {
    return -errno;
  }
  return lent == (ssize_t)bytes;
}

int pf_mem_at_hand(const pf_span_t *spans, size_t count) {
  struct iovec parts[LENT_MOST];
  size_t page = pf_os_page_size(), used = 0, bytes = 0;
  if (!take_pipe()) {
    return -EAGAIN;
  }
  int hand = 1;
  for (size_t i = 0; i < count && hand == 1; i++) {
    for (size_t at = 0; at < spans[i].len && hand == 1;) {
      size_t room = places * page - bytes, left = spans[i].len - at, part = left < room ? left : room;
      parts[used++] = (struct iovec){.iov_base = spans[i].addr + at, .iov_len = part};
      bytes += part;
      at += part;
      if (bytes == places * page || (i + 1 == count && at == spans[i].len)) {
        hand = lend(parts, used, bytes);
        used = bytes = 0;
      }
    }
  }
  if (hand < 0) {
    close_pipe();
  }
  atomic_store_explicit(&state, hand < 0 ? NONE : FREE, memory_order_release);
  return hand;
}

unsigned pf_mem_hand_descriptors(void) {
  int seen = atomic_load(&state);
  return seen == FREE || seen == TAKEN ? 3 : 0;
}

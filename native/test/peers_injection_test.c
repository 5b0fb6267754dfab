/* sanitizers: address,thread,none */
/*
 * Every system call by which other processes are attended fails, with each errno that it can have: waiting for them
 * (epoll), their userfaultfds, the descriptor by which their owner hears of them, their snapshot's files. What they
 * read is right, byte by byte; nobody of them waits for ever; what cannot be begun is refused with the errno and
 * leaves nothing. What the kernel says when pages are put there: traps_test.c, peers_moments_test.c. The calls are
 * this program's own symbols, which go before the C library's.
 */
#include "guests.h"

#include "inject.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

typedef enum { EVENTFD, EPOLL_CREATE, ADD, MOD, EPOLL_WAIT, EVENT_WRITE, EVENT_READ, PREADV, GETFL, READ, WAKE, DUPFD, SEEK, FSTAT, CALLS } call_t;

static const injected_t injected_calls[CALLS] = {
    [EVENTFD] = {"eventfd", {EMFILE, ENFILE, ENODEV, ENOMEM}},
    [EPOLL_CREATE] = {"epoll_create1", {EMFILE, ENFILE, ENOMEM}},
    [ADD] = {"EPOLL_CTL_ADD", {ENOMEM, ENOSPC, EPERM}},
    [MOD] = {"EPOLL_CTL_MOD", {ENOMEM}},
    [EPOLL_WAIT] = {"epoll_wait", {EINTR}},
    [EVENT_WRITE] = {"write", {EINTR}},
    [EVENT_READ] = {"read", {EINTR, EAGAIN}},
    [PREADV] = {"preadv2", {EAGAIN, EINTR, ENOSYS, EOPNOTSUPP, EPERM, EINVAL, EFAULT, EMFILE, ENFILE, ENOMEM}},
    [GETFL] = {"F_GETFL", {EBADF}},
    [READ] = {"read", {EAGAIN, EINTR, EINVAL, EFAULT, EMFILE, ENFILE, ENOMEM}},
    [WAKE] = {"UFFDIO_WAKE", {EFAULT, EINVAL}},
    [DUPFD] = {"F_DUPFD_CLOEXEC", {EBADF, EINVAL, EMFILE}},
    [SEEK] = {"lseek", {EINVAL, EOVERFLOW, ESPIPE}},
    [FSTAT] = {"fstat", {EBADF, EIO, ENOMEM, EOVERFLOW}},
};

static _Atomic bool before_6_10;    /* preadv2 is not for userfaultfds */
static _Atomic bool put_by_another; /* pages are put there by somebody who wakes nobody, a moment before we would */

int eventfd(unsigned start, int flags) {
  int how = must_fail(EVENTFD);
  return how != 0 ? fail(how) : (int)syscall(SYS_eventfd2, start, flags);
}

int epoll_create1(int flags) {
  int how = must_fail(EPOLL_CREATE);
  return how != 0 ? fail(how) : (int)syscall(SYS_epoll_create1, flags);
}

int epoll_ctl(int poll, int op, int fd, struct epoll_event *event) {
  int how = op == EPOLL_CTL_ADD ? must_fail(ADD) : op == EPOLL_CTL_MOD ? must_fail(MOD) : 0;
  return how != 0 ? fail(how) : (int)syscall(SYS_epoll_ctl, poll, op, fd, event);
}

int epoll_wait(int poll, struct epoll_event *events, int most, int timeout) {
  int how = must_fail(EPOLL_WAIT);
  return how != 0 ? fail(how) : (int)syscall(SYS_epoll_pwait, poll, events, most, timeout, NULL, 8);
}

ssize_t write(int fd, const void *from, size_t len) {
  int how = fd == note_fd && len == 8 ? must_fail(EVENT_WRITE) : 0;
  return how != 0 ? fail(how) : syscall(SYS_write, fd, from, len);
}

ssize_t read(int fd, void *into, size_t len) {
  int how = len == 8 && fd == note_fd ? must_fail(EVENT_READ) : len % sizeof(struct pf_uffd_msg) == 0 ? must_fail(READ) : 0;
  return how != 0 ? fail(how) : syscall(SYS_read, fd, into, len);
}

ssize_t preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  int how = must_fail(PREADV);
  how = how == 0 && atomic_load(&before_6_10) ? EOPNOTSUPP : how;
  return how != 0 ? fail(how) : syscall(SYS_preadv2, fd, parts, count, offset, -1L, flags);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  int how = command == F_GETFL ? must_fail(GETFL) : command == F_DUPFD_CLOEXEC ? must_fail(DUPFD) : 0;
  return how != 0 ? fail(how) : (int)syscall(SYS_fcntl, fd, command, argument);
}

off_t lseek(int fd, off_t offset, int whence) {
  int how = must_fail(SEEK);
  return how != 0 ? fail(how) : syscall(SYS_lseek, fd, offset, whence);
}

int fstat(int fd, struct stat *out) {
  int how = must_fail(FSTAT);
  return how != 0 ? fail(how) : (int)syscall(SYS_newfstatat, fd, "", out, 0x1000 /* AT_EMPTY_PATH */);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  int how = request == PF_UFFDIO_WAKE ? must_fail(WAKE) : 0;
  if (how != 0) {
    return fail(how);
  }
  if (request == PF_UFFDIO_COPY && atomic_load(&put_by_another)) {
    struct pf_uffdio_copy *copy = argument;
    copy->mode |= PF_UFFDIO_COPY_MODE_DONTWAKE;
    int result = (int)syscall(SYS_ioctl, fd, request, copy);
    copy->copy = result == 0 ? -EEXIST : copy->copy;
    return result == 0 ? fail(EEXIST) : result;
  }
  return (int)syscall(SYS_ioctl, fd, request, argument);
}

#define EACH_HOW(call, how) \
  for (int which_ = 0, how = 0; which_ < HOWS && (how = injected_calls[call].how[which_]) != 0; which_++)

/* Says what had failed where the test found something since `before`. */
static void report(int before, int call, int how) {
  if (atomic_load(&unmet) != before) {
    printf("  after %s said %d\n", injected_calls[call].name, how);
  }
}

static unsigned at_rest; /* descriptors, where nobody is attended */

/* A thread that attends may have the last hand on one that has been let go. */
static bool is_at_rest(void *unused) {
  (void)unused;
  return count_descriptors() == at_rest;
}

/* --- beginning ----------------------------------------------------------------------------------------------------------------------- */

static void opening(pf_backend_t backend) {
  static const call_t calls[] = {EVENTFD, EPOLL_CREATE};
  (void)backend;
  unsigned descriptors = count_descriptors();
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      uint32_t number;
      int fd = -1;
      arm(calls[i], 0, 0, how);
      EXPECT_EQ(pf_peers_open(2, &number, &fd), -how);
      disarm();
      EXPECT_EQ(atomic_load(&injected), 1);
      EXPECT_EQ(fd, -1);
      EXPECT_EQ(count_descriptors(), descriptors);
    }
  }
  must(pf_peers_open(2, &owner, &note_fd) == 0, "threads");
  at_rest = count_descriptors();
}

static void snapshots(pf_backend_t backend) {
  static const call_t calls[] = {DUPFD, SEEK};
  (void)backend;
  int fds[2] = {memory_file("base", 8, 40, 0), memory_file("difference", 16, 20, 5)};
  unsigned descriptors = count_descriptors(), mappings = count_mappings();
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      unsigned refusals = 0;
      for (int after = 0; after < 8; after++) { /* the size, where data begins, where it ends */
        pf_snapshot_t *snapshot = NULL;
        arm(calls[i], 0, after, how);
        int err = pf_snapshot_of_files(fds, 2, PAGES * PAGE, &snapshot);
        disarm();
        EXPECT_EQ(err, atomic_load(&injected) > 0 ? -how : 0);
        refusals += err != 0;
        if (err == 0) {
          pf_snapshot_drop(snapshot);
        }
        EXPECT_EQ(count_descriptors(), descriptors);
        EXPECT(SLOW || count_mappings() <= mappings); /* sanitizers map for themselves */
      }
      EXPECT(refusals >= (calls[i] == DUPFD ? 2u : 6u));
    }
  }
  close(fds[0]);
  close(fds[1]);
}

/* What cannot be attended is refused, and its descriptors stay the caller's; the next time it can. */
static void adding(pf_backend_t backend) {
  static const call_t calls[] = {FSTAT, ADD};
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  paged_t paged = {.guest = start_guest(EVENT_REMOVE), .states = memfd_create("states", MFD_CLOEXEC)};
  must(ftruncate(paged.states, PF_PEER_STATES_BYTES(PAGES)) == 0, "states");
  pf_area_t area = {paged.guest.base, paged.guest.base + PAGES * PAGE, 0, 0, false};
  pf_peer_options_t options = {.uffd = paged.guest.uffd, .pidfd = paged.guest.pidfd, .areas = &area, .area_count = 1, .page_shift = 12, .states = paged.states,
                               .timeout_ns = 5000 * MS, .snapshot = snapshot};
  unsigned descriptors = count_descriptors();
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      for (int after = 0; after < (calls[i] == ADD ? 2 : 1); after++) { /* its memory, its end */
        arm(calls[i], 0, after, how);
        EXPECT_EQ(pf_peers_add(owner, &options, &paged.id), -how);
        disarm();
        EXPECT_EQ(atomic_load(&injected), 1);
        EXPECT_EQ(count_descriptors(), descriptors);
      }
    }
  }
  EXPECT_EQ(pf_peers_add(owner, &options, &paged.id), 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, PAGES), sum_expected(0, PAGES, 0));
  let_go(&paged);
  pf_snapshot_drop(snapshot);
  EXPECT(wait_until(is_at_rest, NULL, LONG_MS));
}

/* --- attending ---------------------------------------------------------------------------------------------------------------------------- */

static bool has_failed(void *unused) {
  (void)unused;
  return atomic_load(&injected) > 0;
}

/* Two threads of the guest's read all of it, while the call fails. */
static void read_through(pf_snapshot_t *snapshot, call_t call, unsigned odds, int after, int how) {
  int before = atomic_load(&unmet);
  paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
  arm((int)call, odds, after, how);
  ask(&paged.guest, 1, SUM, 0, PAGES);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 0, PAGES), sum_expected(0, PAGES, 0));
  EXPECT(answered(&paged.guest, 1, LONG_MS));
  EXPECT_EQ(paged.guest.board->slots[1].result, sum_expected(0, PAGES, 0));
  EXPECT_EQ(told(&paged.guest, 0, REMOVE, 4, 4), 0);
  EXPECT_EQ(told(&paged.guest, 0, SUM, 4, 4), sum_expected(4, 4, -1));
  EXPECT(wait_until(has_failed, NULL, LONG_MS));
  disarm();
  EXPECT_EQ(view_of(&paged).numbers.failures, 0);
  let_go(&paged);
  report(before, (int)call, how);
}

static void attended(pf_snapshot_t *snapshot, call_t call) {
  EACH_HOW(call, how) {
    atomic_store(&dice, pf_now_ns() | 1);
    read_through(snapshot, call, 0, 0, how);
    read_through(snapshot, call, 0, 5, how);
    read_through(snapshot, call, 3, 0, how);
  }
}

static void attending(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  static const call_t calls[] = {MOD, EPOLL_WAIT, PREADV};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    attended(snapshot, calls[i]);
    if (calls[i] == MOD) { /* never again: then it is looked after without */
      read_through(snapshot, MOD, 1, 0, ENOMEM);
    }
  }
  atomic_store(&before_6_10, true);
  attended(snapshot, GETFL);
  attended(snapshot, READ);
  atomic_store(&before_6_10, false);
  pf_snapshot_drop(snapshot);
  EXPECT(wait_until(is_at_rest, NULL, LONG_MS));
}

/* Whoever waits for a page that came without us is woken by us alone. */
static void waking(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  atomic_store(&put_by_another, true);
  attended(snapshot, WAKE);
  atomic_store(&put_by_another, false);
  pf_snapshot_drop(snapshot);
}

/* --- what is told -------------------------------------------------------------------------------------------------------------------------- */

static bool is_told(void *unused) {
  (void)unused;
  struct pollfd one = {.fd = note_fd, .events = POLLIN};
  return poll(&one, 1, 0) == 1;
}

static void telling(pf_backend_t backend) {
  (void)backend;
  pf_snapshot_t *snapshot = whole_image();
  static const call_t calls[] = {EVENT_WRITE, EVENT_READ};
  for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
    EACH_HOW(calls[i], how) {
      pf_note_t note;
      int before = atomic_load(&unmet);
      while (pf_peers_take_notes(owner, &note, 1) > 0) {
      }
      paged_t paged = page_guest(snapshot, false, false, EVENT_REMOVE);
      arm(calls[i], 0, 0, how);
      kill(paged.guest.pid, SIGKILL);
      EXPECT(wait_until(is_told, NULL, LONG_MS));
      EXPECT_EQ(pf_peers_take_notes(owner, &note, 1), 1);
      EXPECT(note.peer == paged.id && note.event == PF_PEER_GONE);
      disarm();
      EXPECT_EQ(atomic_load(&injected), 1);
      let_go(&paged);
      report(before, (int)calls[i], how);
    }
  }
  pf_snapshot_drop(snapshot);
  EXPECT(wait_until(is_at_rest, NULL, LONG_MS));
}

int main(int count, char **words) {
  pf_uffd_probe_t probe;
  if (count == 4) {
    be_guest(words);
  }
  pf_uffd_probe(&probe);
  if (probe.kernel_mode_errno != 0) {
    printf("skipped: userfaultfd is not for this user\n");
    return summary();
  }
  test_on(PF_BACKEND_SIGNAL, "attending that cannot be begun is refused with the errno, and can be begun later", opening);
  test_on(PF_BACKEND_SIGNAL, "a snapshot whose files cannot be asked is refused with the errno, and leaves nothing", snapshots);
  test_on(PF_BACKEND_SIGNAL, "a guest that cannot be attended is refused with the errno, and stays the caller's", adding);
  test_on(PF_BACKEND_SIGNAL, "whatever call of those who attend fails, guests read what they are to read", attending);
  test_on(PF_BACKEND_SIGNAL, "whoever waits for a page that came without us is woken, should it fail at first", waking);
  test_on(PF_BACKEND_SIGNAL, "the end of a guest is told once, though telling fails at first", telling);
  pf_peers_close(owner);
  return summary();
}

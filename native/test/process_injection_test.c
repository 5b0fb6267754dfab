/*
 * Every system call on sockets, pidfds and other processes fails, with each errno that it can have: the function that made it says so with that errno (or goes on, where a
 * signal came in between), has done nothing, leaves no descriptor and no file, and works the next time. The calls are this program's own symbols, which go before the C
 * library's.
 */
#include "support.h"

#include "inject.h"
#include "process.h"

#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>

typedef enum {
  SOCKET, PAIR, CONNECT, FCHMOD, BIND, LSTAT, CHMOD, LISTEN, ACCEPT, GETSOCKOPT, SEND, RECEIVE, UNLINK, PIDFD_OPEN, PIDFD_SEND, WAITID, EXIT_INFO, POLL, DUPFD, READV,
  CALLS
} call_t;

static const injected_t injected_calls[CALLS] = {
    [SOCKET] = {"socket", {EMFILE, ENFILE, ENOMEM, ENOBUFS, EACCES, EAFNOSUPPORT}},
    [PAIR] = {"socketpair", {EMFILE, ENFILE, ENOMEM, EAFNOSUPPORT, EFAULT}},
    [CONNECT] = {"connect", {EAGAIN, EACCES, ECONNREFUSED, EINTR, ENOENT, EPERM, EPROTOTYPE, ETIMEDOUT}},
    [FCHMOD] = {"fchmod", {EIO, EPERM, EROFS}},
    [BIND] = {"bind", {EADDRINUSE, EACCES, EROFS, ENOSPC, ENOMEM, ELOOP, ENOTDIR, EDQUOT}},
    [LSTAT] = {"lstat", {EACCES, EIO, ENOMEM, ELOOP}},
    [CHMOD] = {"chmod", {EACCES, EIO, ENOMEM, EPERM, EROFS}},
    [LISTEN] = {"listen", {EADDRINUSE, EINVAL, EOPNOTSUPP}},
    [ACCEPT] = {"accept4", {EAGAIN, ECONNABORTED, EINTR, EINVAL, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM}},
    [GETSOCKOPT] = {"getsockopt", {EBADF, ENOPROTOOPT, ENOTSOCK, ESRCH, EMFILE, ENODATA, EINVAL}},
    [SEND] = {"sendmsg", {EAGAIN, ECONNRESET, EINTR, EMSGSIZE, ENOBUFS, ENOMEM, EPIPE, ETOOMANYREFS}},
    [RECEIVE] = {"recvmsg", {EAGAIN, ECONNRESET, EINTR, ENOMEM, EFAULT, ENOTCONN}},
    [UNLINK] = {"unlink", {EACCES, EBUSY, EIO, ENOENT, EPERM, EROFS}},
    [PIDFD_OPEN] = {"pidfd_open", {EMFILE, ENFILE, ENODEV, ENOMEM, ESRCH, ENOSYS, EPERM}},
    [PIDFD_SEND] = {"pidfd_send_signal", {EBADF, EINVAL, EPERM, ESRCH, ENOSYS, EAGAIN}},
    [WAITID] = {"waitid", {ECHILD, EINTR, EINVAL, EBADF}},
    [EXIT_INFO] = {"PIDFD_GET_INFO", {ENOTTY, ESRCH, EINVAL, EREMOTE}},
    [POLL] = {"poll", {EINTR, EINVAL, ENOMEM}},
    [DUPFD] = {"F_DUPFD_CLOEXEC", {EMFILE, EBADF, EINVAL}},
    [READV] = {"process_vm_readv", {EPERM, ESRCH, EFAULT, ENOMEM, ENOSYS}},
};

static const int may_repeat[CALLS][2] = {
    [ACCEPT] = {EINTR, ECONNABORTED}, [SEND] = {EINTR}, [RECEIVE] = {EINTR}, [WAITID] = {EINTR}, [POLL] = {EINTR},
};

#define PASS(call, number, ...)                                            \
  do {                                                                     \
    int how_ = must_fail(call);                                            \
    return how_ != 0 ? fail(how_) : raw(number, __VA_ARGS__, 0L, 0L, 0L, 0L, 0L); \
  } while (0)

static long raw(long number, long a, long b, long c, long d, long e, ...) {
  long with[6] = {a, b, c, d, e, 0};
  return raw_syscall(number, with);
}

#define LONG(pointer) ((long)(uintptr_t)(pointer))

int socket(int domain, int type, int protocol) { PASS(SOCKET, SYS_socket, domain, type, protocol); }
int socketpair(int domain, int type, int protocol, int fds[2]) { PASS(PAIR, SYS_socketpair, domain, type, protocol, LONG(fds)); }
int connect(int fd, const struct sockaddr *address, socklen_t len) { PASS(CONNECT, SYS_connect, fd, LONG(address), len); }
int fchmod(int fd, mode_t mode) { PASS(FCHMOD, SYS_fchmod, fd, mode); }
int bind(int fd, const struct sockaddr *address, socklen_t len) { PASS(BIND, SYS_bind, fd, LONG(address), len); }
int lstat(const char *path, struct stat *out) { PASS(LSTAT, SYS_newfstatat, AT_FDCWD, LONG(path), LONG(out), AT_SYMLINK_NOFOLLOW); }
int chmod(const char *path, mode_t mode) { PASS(CHMOD, SYS_fchmodat, AT_FDCWD, LONG(path), mode); }
int listen(int fd, int backlog) { PASS(LISTEN, SYS_listen, fd, backlog); }
int accept4(int fd, struct sockaddr *address, socklen_t *len, int flags) { PASS(ACCEPT, SYS_accept4, fd, LONG(address), LONG(len), flags); }
int getsockopt(int fd, int level, int name, void *value, socklen_t *len) { PASS(GETSOCKOPT, SYS_getsockopt, fd, level, name, LONG(value), LONG(len)); }
ssize_t sendmsg(int fd, const struct msghdr *message, int flags) { PASS(SEND, SYS_sendmsg, fd, LONG(message), flags); }
ssize_t recvmsg(int fd, struct msghdr *message, int flags) { PASS(RECEIVE, SYS_recvmsg, fd, LONG(message), flags); }
int unlink(const char *path) { PASS(UNLINK, SYS_unlinkat, AT_FDCWD, LONG(path), 0L); }
int waitid(idtype_t kind, id_t id, siginfo_t *out, int options) { PASS(WAITID, SYS_waitid, (long)kind, (long)id, LONG(out), options); }
ssize_t process_vm_readv(pid_t pid, const struct iovec *here, unsigned long heres, const struct iovec *there, unsigned long theres, unsigned long flags) {
  long with[6] = {pid, LONG(here), (long)heres, LONG(there), (long)theres, (long)flags};
  int how = must_fail(READV);
  return how != 0 ? fail(how) : raw_syscall(SYS_process_vm_readv, with);
}

int poll(struct pollfd *list, nfds_t count, int timeout_ms) {
  struct timespec left = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  PASS(POLL, SYS_ppoll, LONG(list), (long)count, timeout_ms < 0 ? 0L : LONG(&left), 0L, 0L);
}

int fcntl(int fd, int command, ...) {
  va_list list;
  va_start(list, command);
  long argument = va_arg(list, long);
  va_end(list);
  int how = command == F_DUPFD_CLOEXEC ? must_fail(DUPFD) : 0;
  return how != 0 ? fail(how) : (int)raw(SYS_fcntl, fd, command, argument, 0L, 0L);
}

int ioctl(int fd, unsigned long request, ...) {
  va_list list;
  va_start(list, request);
  void *argument = va_arg(list, void *);
  va_end(list);
  int how = (request & 0xffff) == 0xff0b ? must_fail(EXIT_INFO) : 0; /* PIDFD_GET_INFO, of any size */
  return how != 0 ? fail(how) : (int)raw(SYS_ioctl, fd, (long)request, LONG(argument), 0L, 0L);
}

long syscall(long number, ...) {
  SYSCALL_ARGUMENTS(number, with);
  int how = number == SYS_pidfd_open ? must_fail(PIDFD_OPEN) : number == SYS_pidfd_send_signal ? must_fail(PIDFD_SEND) : 0;
  return how != 0 ? fail(how) : raw_syscall(number, with);
}

/* --- what makes the calls ----------------------------------------------------------------------------------------------------------- */

static char path[64];
static uint64_t made[2];
static int listener = -1, ends[2], child_fd;
static pid_t child;

static long keep(int fd) {
  if (fd >= 0) {
    close(fd);
  }
  return fd < 0 ? fd : 0;
}

static long do_pair(void) {
  int fds[2] = {-1, -1};
  int err = pf_unix_pair(fds);
  if (err == 0) {
    close(fds[0]);
    close(fds[1]);
  }
  return err;
}

static long do_connect(void) {
  long err = keep(pf_unix_connect(path));
  int accepted = pf_unix_accept(listener); /* what was connected, if it was */
  if (accepted >= 0) {
    close(accepted);
  }
  return err;
}

static long do_listen(void) {
  char other[80];
  uint64_t of_other[2];
  snprintf(other, sizeof other, "%s-other", path);
  int fd = pf_unix_listen(other, 4, 0600, of_other);
  bool left = access(other, F_OK) == 0;
  if (fd >= 0) {
    EXPECT(left);
    EXPECT_EQ(raw(SYS_unlinkat, AT_FDCWD, LONG(other), 0L, 0L, 0L), 0);
  } else if (left) { /* it cannot be told whose it is by now */
    EXPECT_EQ(atomic_load(&victim), LSTAT);
    raw(SYS_unlinkat, AT_FDCWD, LONG(other), 0L, 0L, 0L);
  }
  return keep(fd);
}

static long do_accept(void) {
  int armed_before = atomic_exchange(&armed, 0);
  int fd = pf_unix_connect(path);
  must(fd >= 0, "a connection");
  atomic_store(&armed, armed_before);
  int accepted = pf_unix_accept(listener);
  atomic_store(&armed, 0);
  if (accepted < 0) {
    EXPECT_EQ(keep(pf_unix_accept(listener)), 0); /* it is there still */
  }
  close(fd);
  return keep(accepted);
}

static long do_kind(void) {
  int type;
  bool listening;
  return pf_unix_kind(listener, &type, &listening);
}

static long do_peer(void) {
  int64_t who[3];
  return pf_unix_peer(ends[0], who);
}

static long do_peer_pidfd(void) { return keep(pf_unix_peer_pidfd(ends[0])); }

static long do_pass(void) {
  int fds[4], count = 0, sent[2] = {ends[0], ends[1]};
  uint8_t got[8];
  ssize_t bytes = pf_unix_send(ends[0], (const uint8_t *)"x", 1, sent, 2);
  if (bytes < 0) {
    return bytes;
  }
  ssize_t received = pf_unix_receive(ends[1], got, sizeof got, fds, 4, &count);
  if (received < 0) {
    EXPECT_EQ(count, 0);
    EXPECT_EQ(pf_unix_receive(ends[1], got, sizeof got, fds, 4, &count), 1); /* they are there still */
  }
  EXPECT_EQ(count, 2);
  for (int i = 0; i < count; i++) {
    close(fds[i]);
  }
  return received < 0 ? received : 0;
}

static long do_unlink(void) {
  char other[80];
  uint64_t of_other[2];
  snprintf(other, sizeof other, "%s-gone", path);
  int armed_before = atomic_exchange(&armed, 0);
  int fd = pf_unix_listen(other, 1, -1, of_other);
  must(fd >= 0, "a socket");
  atomic_store(&armed, armed_before);
  int err = pf_unix_unlink(other, of_other);
  atomic_store(&armed, 0);
  EXPECT(err == 0 || access(other, F_OK) == 0);
  raw(SYS_unlinkat, AT_FDCWD, LONG(other), 0L, 0L, 0L);
  close(fd);
  return err;
}

static long do_pidfd(void) { return keep(pf_pidfd_open(child)); }
static long do_signal(void) { return pf_pidfd_signal(child_fd, 0); }
static long do_duplicate(void) { return keep(pf_duplicate(child_fd)); }
static long do_readable(void) { return pf_is_readable(child_fd); }

static long do_wait(void) {
  pf_status_t status;
  return pf_pidfd_wait(child_fd, PF_WAIT_PEEK, &status);
}

static long do_exit(void) {
  pf_status_t status;
  return pf_pidfd_exit(child_fd, &status);
}

static long do_read(void) {
  uint8_t got[8] = {0};
  ssize_t bytes = pf_process_read(child, (uint64_t)(uintptr_t)path, got, sizeof got);
  EXPECT(bytes < 0 || (bytes == 8 && memcmp(got, path, 8) == 0));
  return bytes < 0 ? bytes : 0;
}

static const struct {
  const char *name;
  long (*run)(void);
  call_t calls[8]; /* to the first that is CALLS */
} functions[] = {
    {"a pair", do_pair, {PAIR, CALLS}},
    {"connecting", do_connect, {SOCKET, CONNECT, CALLS}},
    {"listening", do_listen, {SOCKET, FCHMOD, BIND, LSTAT, CHMOD, LISTEN, CALLS}},
    {"accepting", do_accept, {ACCEPT, CALLS}},
    {"asking what it is", do_kind, {GETSOCKOPT, CALLS}},
    {"asking who it is", do_peer, {GETSOCKOPT, CALLS}},
    {"a pidfd of the peer", do_peer_pidfd, {GETSOCKOPT, CALLS}},
    {"passing descriptors", do_pass, {SEND, RECEIVE, CALLS}},
    {"taking the name away", do_unlink, {LSTAT, UNLINK, CALLS}},
    {"a pidfd", do_pidfd, {PIDFD_OPEN, CALLS}},
    {"a signal", do_signal, {PIDFD_SEND, CALLS}},
    {"a copy", do_duplicate, {DUPFD, CALLS}},
    {"looking", do_readable, {POLL, CALLS}},
    {"waiting", do_wait, {WAITID, CALLS}},
    {"how it ended", do_exit, {EXIT_INFO, CALLS}},
    {"its memory", do_read, {READV, CALLS}},
};

/* --- each of them -------------------------------------------------------------------------------------------------------------------- */

static bool repeats(call_t call, int how) { return how == may_repeat[call][0] || how == may_repeat[call][1]; }

/* `usual`: what comes when nothing fails. True: the call was made, and failed. */
static bool fail_once(long (*run)(void), call_t call, int how, int after, long usual) {
  unsigned before = count_descriptors();
  arm(call, 0, after, how);
  long got = run();
  bool failed = atomic_load(&injected) > 0;
  disarm();
  bool gone = run == do_unlink && how == ENOENT && call == UNLINK; /* it is as it should be */
  bool well = !failed || repeats(call, how) || gone;
  EXPECT_EQ(got, well ? usual : -how);
  EXPECT_EQ(count_descriptors(), before);
  EXPECT_EQ(run(), usual);
  EXPECT_EQ(count_descriptors(), before);
  return failed;
}

/* In each way, as the first of its kind that the function makes, the second, … */
static void fail_each(long (*run)(void), call_t call) {
  long usual = run();
  for (int which = 0; injected_calls[call].how[which] != 0; which++) {
    int after = 0;
    while (fail_once(run, call, injected_calls[call].how[which], after, usual) && after < 10) {
      after++;
    }
    EXPECT(after > 0 && after < 10); /* else it never makes this call, or for ever */
  }
}

static void each(pf_backend_t backend) {
  (void)backend;
  make_path(path);
  listener = pf_unix_listen(path, 4, 0600, made);
  must(listener >= 0 && pf_unix_pair(ends) == 0, "sockets");
  child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
      pause();
    }
  }
  child_fd = pf_pidfd_open(child);
  must(child > 0 && child_fd >= 0, "a child");
  for (size_t i = 0; i < sizeof functions / sizeof *functions && atomic_load(&unmet) == 0; i++) {
    for (size_t j = 0; functions[i].calls[j] != CALLS && atomic_load(&unmet) == 0; j++) {
      fail_each(functions[i].run, functions[i].calls[j]);
      if (atomic_load(&unmet) > 0) {
        printf("  %s: %s\n", functions[i].name, injected_calls[functions[i].calls[j]].name);
      }
    }
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  close(child_fd);
  close(ends[0]);
  close(ends[1]);
  close(listener);
  EXPECT_EQ(pf_unix_unlink(path, made), 0);
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "whatever call fails, it is said, and nothing has been done", each);
  return summary();
}

/*
 * Other processes: descriptors over Unix sockets, pidfds, signals as a descriptor, their memory. System calls, thin; no state but where it
 * is said. Results are at least 0, or -errno with nothing done and no descriptor left open. Any thread; none of it in a signal handler.
 */
#ifndef PF_PROCESS_H
#define PF_PROCESS_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* --- fdpass.c: Unix sockets ------------------------------------------------------------------------------------------------ */

#define PF_FDS_MAX 253        /* SCM_MAX_FD: as many as the kernel passes with one message */
#define PF_UNIX_PATH_MAX 107  /* bytes, without the end */

enum { PF_RECEIVED_CUT_FDS = -1, PF_RECEIVED_CUT_BYTES = -2 };

/* Never blocks. Bytes sent, of a stream perhaps fewer than len; the descriptors went with the first of them. -EAGAIN: no room. */
ssize_t pf_unix_send(int fd, const uint8_t *bytes, size_t len, const int *fds, size_t count);
/* Never blocks. Bytes received, 0 at the end; *count descriptors (close-on-exec), which are the caller's. Where *count is negative
 * (PF_RECEIVED_CUT_…) something was cut off, and the descriptors that came are closed. -EAGAIN: nothing there. */
ssize_t pf_unix_receive(int fd, uint8_t *into, size_t len, int *fds, size_t max, int *count);
/* Stream sockets, close-on-exec and non-blocking. */
int pf_unix_pair(int fds[2]);
/* A descriptor. -EAGAIN: the listener's backlog is full. */
int pf_unix_connect(const char *path);
/* A descriptor; what was made at `path` is told by its device and inode. mode -1: as the umask leaves it. */
int pf_unix_listen(const char *path, int backlog, int mode, uint64_t made[2]);
/* A descriptor. -EAGAIN: nobody there. */
int pf_unix_accept(int fd);
/* Removes `path` if it is what pf_unix_listen made. */
int pf_unix_unlink(const char *path, const uint64_t made[2]);
/* 0 where fd is a Unix socket. *type: SOCK_…; *listening. -ENOTSOCK, -EBADF; -EAFNOSUPPORT: a socket of another kind. */
int pf_unix_kind(int fd, int *type, bool *listening);
/* Who was at the other end when it was connected: pid, uid, gid. */
int pf_unix_peer(int fd, int64_t who[3]);
/* A pidfd of the process that pf_unix_peer names, whoever has its number by now. -ENOPROTOOPT before 6.5. */
int pf_unix_peer_pidfd(int fd);

/* --- process.c: pidfds, memory of others --------------------------------------------------------------------------------------- */

typedef struct {
  int code;   /* CLD_…: exited, killed, dumped, stopped, continued; 0: unknown */
  int status; /* exit code or signal */
} pf_status_t;

enum { PF_WAIT_PEEK, PF_WAIT_REAP, PF_WAIT_STOPS };

int pf_pidfd_open(pid_t pid);                 /* 5.3 */
int pf_pidfd_signal(int pidfd, int number);   /* 5.1 */
/* PEEK: an exit, which stays; REAP: an exit, which is taken; STOPS: a stop or continuation, which is taken. 1: there is one, 0: there is
 * none. -ECHILD: not a child of this process, or reaped. 5.4 */
int pf_pidfd_wait(int pidfd, int what, pf_status_t *out);
/* How a process ended that has been reaped, child or not. 1, or 0: not reaped yet. -ESRCH, -ENOTTY, -EINVAL: this kernel cannot tell. 6.15 */
int pf_pidfd_exit(int pidfd, pf_status_t *out);
/* 1 when a read would not block (or there is an end or error), else 0. */
int pf_is_readable(int fd);
/* The same descriptor once more, close-on-exec. */
int pf_duplicate(int fd);

/* Bytes read, fewer where the rest is not mapped. */
ssize_t pf_process_read(pid_t pid, uint64_t address, uint8_t *into, size_t len); /* 3.2 */

/* --- signalfd.c: signals as a descriptor ---------------------------------------------------------------------------------------- */

typedef struct {
  uint32_t number;
  int32_t code; /* si_code */
  uint32_t pid, uid;
  int32_t status; /* of a child */
} pf_signal_t;

/* Bit n - 1 for signal n, as the kernel has it. */
#define PF_SIGNAL_BIT(number) (1ULL << ((number)-1))

/* A descriptor, after the signals have been blocked in every thread of the process; new threads inherit that. -EBUSY: one of them is taken
 * by an earlier call. -ETIMEDOUT: a thread did not answer within a second, and all is as before. -EAGAIN: no real-time signal is free.
 * -EMFILE, -ENFILE: threads cannot be looked at without a descriptor. */
int pf_signals_open(uint64_t signals);
/* Closes it; the signals are unblocked again where they were not blocked before. What is pending is dropped, except SIGCHLD. */
int pf_signals_close(int fd, uint64_t signals);
/* Signals that came, at most max. -EAGAIN: none. */
int pf_signals_read(int fd, pf_signal_t *out, size_t max);

#endif

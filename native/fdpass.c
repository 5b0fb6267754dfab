/*
 * Unix sockets, and descriptors through them. Any thread; nothing is remembered, nothing blocks.
 *
 * A stream keeps no message boundaries: recvmsg(2) glues plain bytes that came earlier to the message that carries descriptors, and stops
 * behind it. So bytes and descriptors are two queues of their own for whoever reads them.
 */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* --- messages ---------------------------------------------------------------------------------------------------------------- */

typedef union {
  struct cmsghdr header; /* for its alignment */
  char bytes[CMSG_SPACE(PF_FDS_MAX * sizeof(int))];
} control_t;

ssize_t pf_unix_send(int fd, const uint8_t *bytes, size_t len, const int *fds, size_t count) {
  struct iovec piece = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
  control_t control;
  if (count > PF_FDS_MAX || (count > 0 && len == 0)) {
    return -EINVAL; /* without a byte a stream sends nothing at all */
  }
  if (count > 0) {
    memset(&control, 0, sizeof control);
    message.msg_control = &control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), fds, count * sizeof(int));
  }
  ssize_t sent;
  do {
    sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : sent;
}

static int take_fds(struct msghdr *message, int *fds, size_t max) {
  size_t count = 0;
  for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
      continue;
    }
    size_t here = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < here; i++) {
      int one;
      memcpy(&one, CMSG_DATA(header) + i * sizeof one, sizeof one);
      if (count < max) {
        fds[count++] = one;
      } else {
        close(one);
        message->msg_flags |= MSG_CTRUNC;
      }
    }
  }
  return (int)count;
}

ssize_t pf_unix_receive(int fd, uint8_t *into, size_t len, int *fds, size_t max, int *count) {
  control_t control;
  struct iovec piece = {.iov_base = into, .iov_len = len};
  struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
  *count = 0;
  max = max > PF_FDS_MAX ? PF_FDS_MAX : max;
  if (max > 0) {
    message.msg_control = &control;
    message.msg_controllen = CMSG_LEN(max * sizeof(int)); /* with CMSG_SPACE an odd number would have room for one more */
  }
  ssize_t got;
  do {
    got = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    return -errno;
  }
  *count = max > 0 ? take_fds(&message, fds, max) : 0;
  if ((message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0) {
    for (int i = 0; i < *count; i++) {
      close(fds[i]);
    }
    *count = (message.msg_flags & MSG_CTRUNC) != 0 ? PF_RECEIVED_CUT_FDS : PF_RECEIVED_CUT_BYTES;
  }
  return got;
}

/* --- sockets ------------------------------------------------------------------------------------------------------------------ */

static int stream_socket(void) { return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); }

static int address_of(const char *path, struct sockaddr_un *out) {
  size_t len = strlen(path);
  if (len == 0 || len > PF_UNIX_PATH_MAX) {
    return -ENAMETOOLONG;
  }
  *out = (struct sockaddr_un){.sun_family = AF_UNIX};
  memcpy(out->sun_path, path, len);
  return 0;
}

static int close_with(int fd, int err) {
  close(fd);
  return err;
}

int pf_unix_pair(int fds[2]) { return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0 ? 0 : -errno; }

int pf_unix_connect(const char *path) {
  struct sockaddr_un address;
  int err = address_of(path, &address);
  int fd = err == 0 ? stream_socket() : -1;
  if (fd < 0) {
    return err == 0 ? -errno : err;
  }
  /* It is decided at once: a Unix socket is never "in progress". */
  return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : close_with(fd, -errno);
}

static int identify(const char *path, uint64_t made[2]) {
  struct stat there;
  if (lstat(path, &there) != 0) {
    return -errno;
  }
  made[0] = (uint64_t)there.st_dev;
  made[1] = (uint64_t)there.st_ino;
  return 0;
}

int pf_unix_unlink(const char *path, const uint64_t made[2]) {
  uint64_t there[2];
  int err = identify(path, there);
  if (err != 0 || there[0] != made[0] || there[1] != made[1]) {
    return err == -ENOENT ? 0 : err;
  }
  return unlink(path) == 0 || errno == ENOENT ? 0 : -errno;
}

int pf_unix_listen(const char *path, int backlog, int mode, uint64_t made[2]) {
  struct sockaddr_un address;
  int err = address_of(path, &address);
  int fd = err == 0 ? stream_socket() : -1;
  if (fd < 0) {
    return err == 0 ? -errno : err;
  }
  /* The file gets the mode of the socket's inode without the umask: at no time is it open to more than it shall be. */
  if (mode >= 0 && fchmod(fd, (mode_t)mode) != 0) {
    return close_with(fd, -errno);
  }
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    return close_with(fd, -errno);
  }
  err = identify(path, made);
  if (err == 0 && ((mode >= 0 && chmod(path, (mode_t)mode) != 0) || listen(fd, backlog) != 0)) {
    err = -errno;
    pf_unix_unlink(path, made);
  }
  return err == 0 ? fd : close_with(fd, err);
}

int pf_unix_accept(int fd) {
  int accepted;
  do {
    accepted = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  } while (accepted < 0 && (errno == EINTR || errno == ECONNABORTED));
  return accepted < 0 ? -errno : accepted;
}

int pf_unix_kind(int fd, int *type, bool *listening) {
  int domain, accepts;
  socklen_t len = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) != 0) {
    return -errno;
  }
  if (domain != AF_UNIX) {
    return -EAFNOSUPPORT;
  }
  len = sizeof *type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, type, &len) != 0) {
    return -errno;
  }
  len = sizeof accepts;
  if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &len) != 0) {
    return -errno;
  }
  *listening = accepts != 0;
  return 0;
}

int pf_unix_peer(int fd, int64_t who[3]) {
  struct ucred peer;
  socklen_t len = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) != 0) {
    return -errno;
  }
  who[0] = peer.pid;
  who[1] = peer.uid;
  who[2] = peer.gid;
  return 0;
}

/* Since 6.5. Older headers do not have its number, which is the same on x86-64 and aarch64. */
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

int pf_unix_peer_pidfd(int fd) {
  int pidfd = -1;
  socklen_t len = sizeof pidfd;
  return getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0 ? pidfd : -errno;
}

/*
 * Unix sockets and descriptors through them: order, ends, what is cut off, paths, and that no descriptor is left behind.
 */
#include "support.h"

#include "process.h"

#include <sys/socket.h>

static void pair(int sockets[2]) { must(pf_unix_pair(sockets) == 0, "socketpair"); }

static void close_pair(const int sockets[2]) {
  close(sockets[0]);
  close(sockets[1]);
}

static void bytes_and_descriptors(pf_backend_t backend) {
  (void)backend;
  unsigned before = count_descriptors();
  int sockets[2], fds[PF_FDS_MAX], count = -7;
  uint8_t got[64];
  pair(sockets);
  EXPECT_EQ(pf_unix_receive(sockets[1], got, sizeof got, fds, PF_FDS_MAX, &count), -EAGAIN);
  EXPECT_EQ(count, 0);
  EXPECT_EQ(pf_unix_send(sockets[0], (const uint8_t *)"1234", 4, NULL, 0), 4);
  EXPECT_EQ(pf_unix_send(sockets[0], (const uint8_t *)"5", 1, sockets, 2), 1);
  EXPECT_EQ(pf_unix_send(sockets[0], (const uint8_t *)"678", 3, NULL, 0), 3);
  EXPECT_EQ(pf_unix_receive(sockets[1], got, sizeof got, fds, PF_FDS_MAX, &count), 5);
  EXPECT_EQ(memcmp(got, "12345", 5), 0);
  EXPECT_EQ(count, 2);
  EXPECT_EQ(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
  close(fds[0]);
  close(fds[1]);
  EXPECT_EQ(pf_unix_receive(sockets[1], got, sizeof got, fds, 0, &count), 3);
  close(sockets[0]);
  EXPECT_EQ(pf_unix_receive(sockets[1], got, sizeof got, fds, PF_FDS_MAX, &count), 0);
  EXPECT_EQ(pf_unix_send(sockets[1], got, 1, NULL, 0), -EPIPE);
  close(sockets[1]);
  EXPECT_EQ(count_descriptors(), before);
}

static void cut_off(pf_backend_t backend) {
  (void)backend;
  int sockets[2], sent[PF_FDS_MAX + 1], fds[PF_FDS_MAX], count;
  uint8_t got[8] = {0};
  pair(sockets);
  unsigned before = count_descriptors();
  for (int i = 0; i <= PF_FDS_MAX; i++) {
    sent[i] = sockets[i & 1];
  }
  EXPECT_EQ(pf_unix_send(sockets[0], got, 1, sent, PF_FDS_MAX + 1), -EINVAL);
  EXPECT_EQ(pf_unix_send(sockets[0], got, 0, sent, 1), -EINVAL);
  for (size_t number = 1; number <= PF_FDS_MAX; number += 21) {
    for (size_t room = 0; room <= number; room += number < 5 ? 1 : number / 4) {
      EXPECT_EQ(pf_unix_send(sockets[0], got, 1, sent, number), 1);
      EXPECT_EQ(pf_unix_receive(sockets[1], got, sizeof got, fds, room, &count), 1);
      EXPECT_EQ(count, room < number ? PF_RECEIVED_CUT_FDS : (long long)number);
      for (int i = 0; i < count; i++) {
        close(fds[i]);
      }
      EXPECT_EQ(count_descriptors(), before);
    }
  }
  EXPECT_EQ(pf_unix_send(sockets[0], got, 1, (int[]){-1}, 1), -EBADF);
  close_pair(sockets);
}

static void message_cut_off(pf_backend_t backend) {
  (void)backend;
  int sockets[2], fds[4], count;
  uint8_t bytes[16] = {0};
  must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) == 0, "socketpair");
  unsigned before = count_descriptors();
  EXPECT_EQ(pf_unix_send(sockets[0], bytes, 16, sockets, 2), 16);
  EXPECT_EQ(pf_unix_receive(sockets[1], bytes, 8, fds, 4, &count), 8);
  EXPECT_EQ(count, PF_RECEIVED_CUT_BYTES);
  EXPECT_EQ(count_descriptors(), before);
  close_pair(sockets);
}

static void paths(pf_backend_t backend) {
  (void)backend;
  unsigned before = count_descriptors();
  int type;
  int64_t who[3];
  uint64_t made[2], other[2] = {1, 1};
  bool listening;
  char path[64], longer[PF_UNIX_PATH_MAX + 2];
  snprintf(path, sizeof path, "/tmp/pagefault-fdpass-%d", (int)getpid());
  memset(longer, 'x', sizeof longer);
  longer[PF_UNIX_PATH_MAX + 1] = '\0';
  EXPECT_EQ(pf_unix_connect(path), -ENOENT);
  EXPECT_EQ(pf_unix_connect(longer), -ENAMETOOLONG);
  EXPECT_EQ(pf_unix_connect(""), -ENAMETOOLONG);
  EXPECT_EQ(pf_unix_listen(longer, 1, -1, made), -ENAMETOOLONG);
  int listener = pf_unix_listen(path, 4, 0600, made);
  must(listener >= 0, "listen");
  struct stat there;
  EXPECT_EQ(stat(path, &there), 0);
  EXPECT_EQ(there.st_mode & 0777, 0600);
  EXPECT_EQ(pf_unix_kind(listener, &type, &listening), 0);
  EXPECT(listening && type == SOCK_STREAM);
  EXPECT_EQ(pf_unix_accept(listener), -EAGAIN);
  EXPECT_EQ(pf_unix_listen(path, 4, -1, other), -EADDRINUSE);
  int client = pf_unix_connect(path), server = pf_unix_accept(listener);
  EXPECT(client >= 0 && server >= 0);
  EXPECT_EQ(pf_unix_peer(server, who), 0);
  EXPECT_EQ(who[0], getpid());
  EXPECT_EQ(who[1], getuid());
  int peer = pf_unix_peer_pidfd(server);
  EXPECT(peer >= 0 || peer == -ENOPROTOOPT); /* before 6.5 */
  EXPECT_EQ(peer >= 0 ? pf_pidfd_signal(peer, 0) : 0, 0);
  close(peer);
  close(client);
  close(server);
  close(listener);
  EXPECT_EQ(pf_unix_connect(path), -ECONNREFUSED);
  EXPECT_EQ(pf_unix_unlink(path, other), 0); /* not what was made */
  EXPECT_EQ(access(path, F_OK), 0);
  EXPECT_EQ(pf_unix_unlink(path, made), 0);
  EXPECT_EQ(access(path, F_OK), -1);
  EXPECT_EQ(pf_unix_unlink(path, made), 0);
  EXPECT_EQ(pf_unix_kind(STDIN_FILENO + 1000, &type, &listening), -EBADF);
  int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
  EXPECT_EQ(pf_unix_kind(file, &type, &listening), -ENOTSOCK);
  close(file);
  EXPECT_EQ(count_descriptors(), before);
}

int main(void) {
  test_on(PF_BACKEND_MPROTECT, "bytes and descriptors keep their order, and the end comes last", bytes_and_descriptors);
  test_on(PF_BACKEND_MPROTECT, "descriptors for which there is no room are closed, all of them", cut_off);
  test_on(PF_BACKEND_MPROTECT, "a message that is cut off leaves no descriptor", message_cut_off);
  test_on(PF_BACKEND_MPROTECT, "sockets at paths are found, refused and removed", paths);
  return summary();
}

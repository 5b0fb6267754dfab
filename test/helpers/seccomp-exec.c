/*
 * Starts a program as containers do: as another user, and under a seccomp filter that refuses userfaultfd(2) with EPERM.
 *
 *     seccomp-exec [--uid N] [--deny-userfaultfd] PROGRAM [ARGUMENT...]
 *
 * Exits with 125 and a sentence where that cannot be set up. Single threaded, no state.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <grp.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define THIS_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCH AUDIT_ARCH_AARCH64
#else
#error "the filter knows x86-64 and arm64"
#endif

static void give_up(const char *what)
{
	fprintf(stderr, "seccomp-exec: %s: %s\n", what, strerror(errno));
	exit(125);
}

/* User and group, without supplementary groups. Needs root. */
static void become(unsigned id)
{
	if (setgroups(0, NULL) != 0 || setresgid(id, id, id) != 0 || setresuid(id, id, id) != 0)
		give_up("cannot change the user");
}

static void deny_userfaultfd(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCH, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof filter / sizeof filter[0], filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
		give_up("cannot install the filter");
}

int main(int argc, char **argv)
{
	int at = 1;

	for (; at < argc && strncmp(argv[at], "--", 2) == 0; at++) {
		if (strcmp(argv[at], "--uid") == 0 && at + 1 < argc)
			become((unsigned)strtoul(argv[++at], NULL, 10));
		else if (strcmp(argv[at], "--deny-userfaultfd") == 0)
			deny_userfaultfd();
		else {
			fprintf(stderr, "seccomp-exec: unknown option %s\n", argv[at]);
			return 125;
		}
	}
	if (at >= argc) {
		fprintf(stderr, "seccomp-exec: no program\n");
		return 125;
	}
	execvp(argv[at], argv + at);
	give_up(argv[at]);
	return 125;
}

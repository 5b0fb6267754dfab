/** What `doctor` makes of the kernels, sandboxes and runtimes there are. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { test } from 'node:test';
import { type Diagnosis, diagnose, featureNames } from '#dist/cli/diagnose.js';
import type { NativeProbe } from '#dist/native/binding.js';

const { EACCES, EINVAL, ENOENT, ENOMEM, ENOSYS, EPERM } = constants.errno;

const GOOD: NativeProbe = {
  pageSize: 4096,
  kernel: '6.18.44',
  arch: 'x86_64',
  userfaultfdErrno: 0,
  kernelFaultsErrno: EPERM,
  deviceErrno: EACCES,
  features: 0x1ffffn,
  maxMapCount: 65_530,
  seccomp: 0,
  vectoredMadvise: true,
  externalSharedArrayBuffer: true,
  mprotectErrno: 0,
};

function backend(diagnosis: Diagnosis, name: string): Diagnosis['backends'][number] {
  const found = diagnosis.backends.find((candidate) => candidate.name === name);
  assert.ok(found);
  return found;
}

test('where everything is allowed both backends work and there is no advice', () => {
  const diagnosis = diagnose(GOOD);
  assert.equal(diagnosis.supported, true);
  assert.equal(backend(diagnosis, 'signal').works, 'yes');
  assert.equal(backend(diagnosis, 'mprotect').works, 'yes');
  assert.deepEqual(diagnosis.advice, []);
});

test('a container that refuses userfaultfd is told how to allow it', () => {
  const diagnosis = diagnose({ ...GOOD, userfaultfdErrno: EPERM, seccomp: 2, features: 0n });
  const signal = backend(diagnosis, 'signal');
  assert.equal(diagnosis.supported, true);
  assert.equal(signal.works, 'no');
  assert.match(signal.reason, /refused \(EPERM\) and a seccomp filter is on/);
  assert.match(signal.fixes.join('\n'), /--security-opt seccomp=/);
  assert.match(diagnosis.advice.join('\n'), /vm\.max_map_count/);
});

test('a refusal without a seccomp filter is blamed on a security module', () => {
  const signal = backend(diagnose({ ...GOOD, userfaultfdErrno: EACCES, features: 0n }), 'signal');
  assert.match(signal.reason, /security module/);
});

test('an old kernel and one without userfaultfd are told apart', () => {
  const old = backend(diagnose({ ...GOOD, userfaultfdErrno: EINVAL, features: 0n }), 'signal');
  assert.match(old.reason, /5\.11/);
  const without = backend(diagnose({ ...GOOD, userfaultfdErrno: ENOSYS, features: 0n }), 'signal');
  assert.match(without.reason, /ENOSYS/);
  assert.match(without.fixes.join('\n'), /CONFIG_USERFAULTFD/);
  const ancient = backend(diagnose({ ...GOOD, features: 0x7fn }), 'signal');
  assert.equal(ancient.works, 'no');
  assert.match(ancient.reason, /SIGBUS/);
});

test('nothing is supported where no backend works', () => {
  const diagnosis = diagnose({ ...GOOD, userfaultfdErrno: EPERM, mprotectErrno: ENOMEM, features: 0n });
  assert.equal(diagnosis.supported, false);
  assert.match(backend(diagnosis, 'mprotect').reason, /ENOMEM/);
});

test('backends of later releases say so, and what they will need', () => {
  const thread = backend(diagnose(GOOD), 'thread');
  assert.equal(thread.works, 'later');
  assert.match(thread.fixes.join('\n'), /vm\.unprivileged_userfaultfd/);
  assert.match(thread.fixes.join('\n'), /setfacl/);
  const noDevice = backend(diagnose({ ...GOOD, deviceErrno: ENOENT }), 'thread');
  assert.doesNotMatch(noDevice.fixes.join('\n'), /setfacl/);
  assert.deepEqual(backend(diagnose({ ...GOOD, kernelFaultsErrno: 0 }), 'thread').fixes, []);
  assert.equal(backend(diagnose(GOOD), 'memfd').works, 'later');
  assert.equal(backend(diagnose(GOOD), 'kernel').works, 'later');
});

test('errors are named, not numbered', () => {
  const { userfaultfd } = diagnose(GOOD);
  assert.deepEqual(userfaultfd.userMode, { works: true, errno: null });
  assert.deepEqual(userfaultfd.kernelMode, { works: false, errno: 'EPERM' });
  assert.deepEqual(userfaultfd.device, { works: false, errno: 'EACCES' });
});

test('feature bits have the names of the kernel header, and unknown ones a number', () => {
  assert.equal(featureNames(0x1ffffn).length, 17);
  assert.deepEqual(featureNames((1n << 7n) | (1n << 16n)), ['SIGBUS', 'MOVE']);
  assert.deepEqual(featureNames(1n << 20n), ['bit 20']);
  assert.deepEqual(featureNames(0n), []);
});

test('runtimes without external shared buffers and kernels without vectored madvise are told', () => {
  const advice = diagnose({ ...GOOD, externalSharedArrayBuffer: false, vectoredMadvise: false }).advice.join('\n');
  assert.match(advice, /4 GiB/);
  assert.match(advice, /process_madvise/);
});

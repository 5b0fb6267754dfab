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
  engineErrno: 0,
  servedErrno: EPERM,
  servedByDevice: false,
  deviceErrno: EACCES,
  features: 0x1ffffn,
  maxMapCount: 65_530,
  seccomp: 0,
  vectoredMadvise: true,
  externalSharedArrayBuffer: true,
  mprotectErrno: 0,
  sharedPages: 'write',
  writeTracking: 'async',
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
  const diagnosis = diagnose({ ...GOOD, userfaultfdErrno: EPERM, engineErrno: EPERM, seccomp: 2, features: 0n });
  const signal = backend(diagnosis, 'signal');
  assert.equal(diagnosis.supported, true);
  assert.equal(signal.works, 'no');
  assert.match(signal.reason, /refused \(EPERM\) and a seccomp filter is on/);
  assert.match(signal.fixes.join('\n'), /--security-opt seccomp=/);
  assert.match(diagnosis.advice.join('\n'), /vm\.max_map_count/);
});

test('a refusal without a seccomp filter is blamed on a security module', () => {
  const signal = backend(diagnose({ ...GOOD, userfaultfdErrno: EACCES, engineErrno: EACCES, features: 0n }), 'signal');
  assert.match(signal.reason, /security module/);
});

test('an old kernel and one without userfaultfd are told apart', () => {
  const old = backend(diagnose({ ...GOOD, userfaultfdErrno: EINVAL, engineErrno: EINVAL, features: 0n }), 'signal');
  assert.match(old.reason, /5\.11/);
  const without = backend(diagnose({ ...GOOD, userfaultfdErrno: ENOSYS, engineErrno: ENOSYS, features: 0n }), 'signal');
  assert.match(without.reason, /ENOSYS/);
  assert.match(without.fixes.join('\n'), /CONFIG_USERFAULTFD/);
  const ancient = backend(diagnose({ ...GOOD, features: 0x7fn }), 'signal');
  assert.equal(ancient.works, 'no');
  assert.match(ancient.reason, /SIGBUS/);
});

test('nothing is supported where no backend works', () => {
  const diagnosis = diagnose({
    ...GOOD,
    userfaultfdErrno: EPERM,
    engineErrno: EPERM,
    mprotectErrno: ENOMEM,
    features: 0n,
  });
  assert.equal(diagnosis.supported, false);
  assert.match(backend(diagnosis, 'mprotect').reason, /ENOMEM/);
});

test('backend thread says what it needs, and backends of later releases that they are', () => {
  const thread = backend(diagnose(GOOD), 'thread');
  assert.equal(thread.works, 'no');
  assert.match(thread.reason, /privilege/);
  assert.match(thread.fixes.join('\n'), /PAGEFAULT_USERFAULTFD=3 COMMAND 3<>\/dev\/userfaultfd/);
  assert.match(thread.fixes.join('\n'), /vm\.unprivileged_userfaultfd/);
  assert.match(thread.fixes.join('\n'), /setfacl/);
  const noDevice = backend(diagnose({ ...GOOD, deviceErrno: ENOENT }), 'thread');
  assert.doesNotMatch(noDevice.fixes.join('\n'), /setfacl/);
  const lent = backend(diagnose({ ...GOOD, servedErrno: 0, servedByDevice: true }), 'thread');
  assert.equal(lent.works, 'yes');
  assert.match(lent.reason, /from \/dev\/userfaultfd/);
  assert.deepEqual(lent.fixes, []);
  assert.equal(backend(diagnose(GOOD), 'kernel').works, 'later');
});

test('where a filter refuses the system call a lent device counts, and without one no sysctl is offered', () => {
  const filtered = { ...GOOD, userfaultfdErrno: EPERM, kernelFaultsErrno: EPERM, seccomp: 2, features: 0n };
  const lent = diagnose({ ...filtered, servedErrno: 0, servedByDevice: true });
  for (const name of ['signal', 'thread', 'memfd']) {
    assert.equal(backend(lent, name).works, 'yes', name);
    assert.deepEqual(backend(lent, name).fixes, []);
  }
  assert.match(backend(lent, 'signal').reason, /from \/dev\/userfaultfd/);
  assert.deepEqual(lent.advice, []);
  const fixes = backend(diagnose({ ...filtered, engineErrno: EPERM }), 'thread').fixes.join('\n');
  assert.doesNotMatch(fixes, /sysctl/);
  assert.match(fixes, /^Let this user open the device: .*\nOr start it .*\nOr send it .*useDevice\(\)/);
});

test('backend memfd says what of userfaultfd it lacks', () => {
  assert.equal(backend(diagnose(GOOD), 'memfd').works, 'yes');
  const readOnly = backend(diagnose({ ...GOOD, sharedPages: 'read' }), 'memfd');
  assert.equal(readOnly.works, 'yes');
  assert.match(readOnly.reason, /read-only: .*6\.4/);
  const old = backend(diagnose({ ...GOOD, sharedPages: 'none' }), 'memfd');
  assert.equal(old.works, 'no');
  assert.match(old.reason, /5\.14/);
  const refused = backend(
    diagnose({ ...GOOD, userfaultfdErrno: EPERM, engineErrno: EPERM, sharedPages: 'none', features: 0n }),
    'memfd',
  );
  assert.equal(refused.works, 'no');
  assert.match(refused.reason, /EPERM|refuse/);
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

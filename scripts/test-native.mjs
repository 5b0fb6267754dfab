// Compiles each native/test/*_test.c with all of native/*.c except binding*.c (which needs node_api.h), three times:
// under AddressSanitizer and UndefinedBehaviorSanitizer, under ThreadSanitizer, and plain with -O2. Runs them all.
// The sources become a static library, so that a test of one file links while another file is unfinished.
//
//   node scripts/test-native.mjs [--again] [name …]        only tests whose file name contains one of the names
//
// With --again, a few tests that failed are run once more, with nothing beside them, and those that pass then are named
// and do not fail the run. What a sanitizer reports, what died of a signal and what hung is not run again.
//
// A test may restrict the set on its first line: /* sanitizers: address,thread,none */
// The compiler is $CC, else cc. Exits 1 if anything does not compile, fails, or takes longer than two minutes.

import { execFile } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AGAIN, MAY_REPEAT, say } from './again.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const nativeDir = join(root, 'native');
const testDir = join(nativeDir, 'test');
const buildDir = join(root, 'build', 'native-test');

const compiler = process.env.CC ?? 'cc';
const compileTimeoutMs = 300_000;
const runTimeoutMs = 120_000;

const commonFlags = ['-std=c11', '-g', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Wshadow', '-Werror', '-pthread'];
const variants = {
  address: ['-O1', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
  thread: ['-O1', '-fno-omit-frame-pointer', '-fsanitize=thread'],
  none: ['-O2'],
};

const environment = {
  ...process.env,
  TSAN_OPTIONS: process.env.TSAN_OPTIONS ?? 'halt_on_error=1',
  UBSAN_OPTIONS: process.env.UBSAN_OPTIONS ?? 'print_stacktrace=1',
};

/** Runs a program. Resolves to its output and a sentence about how it failed, or null if it did not. */
function run(command, args, timeoutMs) {
  return new Promise((resolve) => {
    const options = { cwd: root, env: environment, timeout: timeoutMs, killSignal: 'SIGKILL', maxBuffer: 64 << 20 };
    execFile(command, args, options, (error, stdout, stderr) => {
      let failure = null;
      if (error?.killed) failure = `took longer than ${timeoutMs / 1000} s`;
      else if (error?.signal) failure = `ended by ${error.signal}`;
      else if (error) failure = typeof error.code === 'number' ? `exit code ${error.code}` : error.message;
      resolve({ output: `${stdout}${stderr}`, failure });
    });
  });
}

/** Runs the jobs, some at a time; results in the order of the jobs. */
async function inParallel(jobs, lanes = availableParallelism()) {
  const results = new Array(jobs.length);
  let next = 0;
  const lane = async () => {
    while (next < jobs.length) {
      const i = next++;
      results[i] = await jobs[i]();
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return results;
}

function sanitizersOf(testFile) {
  const firstLine = readFileSync(testFile, 'utf8').split('\n', 1)[0];
  const list = /\/\*\s*sanitizers:\s*([a-z, ]+?)\s*\*\//.exec(firstLine)?.[1];
  if (list === undefined) return Object.keys(variants);
  const names = list.split(',').map((name) => name.trim());
  for (const name of names) {
    if (name in variants) continue;
    throw new Error(`${testFile}: unknown sanitizer '${name}'; known are ${Object.keys(variants).join(', ')}`);
  }
  return names;
}

/** Runs a test. ThreadSanitizer of older compilers cannot start where addresses are very random: then without that. */
async function runTest(binary, variant) {
  const result = await run(binary, [], runTimeoutMs);
  if (variant !== 'thread' || !result.failure || !/unexpected memory mapping/.test(result.output)) return result;
  return run('setarch', ['-R', binary], runTimeoutMs);
}

const again = process.argv.includes(AGAIN);
const wanted = process.argv.slice(2).filter((argument) => argument !== AGAIN);
const sources = readdirSync(nativeDir)
  .filter((name) => name.endsWith('.c') && !name.startsWith('binding'))
  .sort();
const tests = readdirSync(testDir)
  .filter((name) => name.endsWith('_test.c'))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .sort()
  .map((name) => join(testDir, name))
  .map((file) => ({ name: basename(file, '.c'), file, sanitizers: sanitizersOf(file) }));

if (tests.length === 0) {
  console.error('no native test to run');
  process.exit(1);
}

const indented = (text) => text.trimEnd().replace(/^/gm, '        ');

let failures = 0;
const suspects = []; // tests that failed, but not by a sanitizer's word
function report(what, { failure, output }, summary = '') {
  if (failure === null) {
    console.log(`ok      ${what}${summary}`);
    return;
  }
  failures++;
  console.log(`FAILED  ${what}: ${failure}`);
  if (output.trim() !== '') console.log(indented(output));
}

const objectOf = (variant, file) => join(buildDir, variant, `${basename(file, '.c')}.o`);
const libraryOf = (variant) => join(buildDir, variant, 'libnative.a');

// Compile the sources once for each variant that a test asks for.
const used = Object.keys(variants).filter((variant) => tests.some((test) => test.sanitizers.includes(variant)));
const compilations = used.flatMap((variant) => {
  const testFiles = tests.filter((test) => test.sanitizers.includes(variant)).map((test) => test.file);
  return [...sources.map((name) => join(nativeDir, name)), ...testFiles].map((file) => ({
    variant,
    file,
    object: objectOf(variant, file),
  }));
});
for (const variant of used) mkdirSync(join(buildDir, variant), { recursive: true });
const compiled = await inParallel(
  compilations.map(({ variant, file, object }) => () => {
    const args = [...commonFlags, ...variants[variant], `-I${nativeDir}`, '-c', file, '-o', object];
    return run(compiler, args, compileTimeoutMs);
  }),
);
const good = new Set();
compilations.forEach(({ variant, file, object }, i) => {
  if (compiled[i].failure === null) good.add(object);
  else report(`compile ${basename(file)} (${variant})`, compiled[i]);
});

for (const variant of used) {
  const objects = sources.map((name) => objectOf(variant, name)).filter((object) => good.has(object));
  rmSync(libraryOf(variant), { force: true });
  const archived = await run('ar', ['rcs', libraryOf(variant), ...objects], compileTimeoutMs);
  if (archived.failure !== null) report(`library (${variant})`, archived);
}

async function linkAndRun(test, variant) {
  const what = `${test.name} (${variant})`;
  const object = objectOf(variant, test.file);
  if (!good.has(object)) return; // reported above
  const binary = join(buildDir, variant, test.name);
  const args = [...commonFlags, ...variants[variant], object, libraryOf(variant), '-o', binary];
  const linked = await run(compiler, args, compileTimeoutMs);
  if (linked.failure !== null) {
    report(`link ${what}`, linked);
    return;
  }
  const begun = performance.now();
  const result = await runTest(binary, variant);
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  const counts = /\d+ passed, \d+ failed.*$/m.exec(result.output);
  report(what, result, counts === null ? '' : `: ${counts[0]}, ${seconds} s`);
  const reported = /(Address|Leak|Thread|UndefinedBehavior)Sanitizer|runtime error:/.test(result.output);
  if (result.failure?.startsWith('exit code') && !reported) suspects.push({ what, binary, variant, result });
}

// Much of a test is waiting for deadlines, so that more run than there are processors.
await inParallel(
  tests.flatMap((test) => test.sanitizers.map((variant) => () => linkAndRun(test, variant))),
  availableParallelism() + 2,
);

if (again && suspects.length === failures && failures <= MAY_REPEAT) {
  for (const { what, binary, variant, result } of suspects) {
    const second = await runTest(binary, variant);
    report(`${what}, with nothing beside`, second);
    if (second.failure !== null) continue;
    failures--;
    say(
      `# ${what} failed beside other tests (${result.failure}), and passed alone: to be looked at\n${indented(result.output)}\n`,
    );
  }
}
if (failures > 0) console.log(`${failures} failed`);
process.exit(failures > 0 ? 1 : 0);

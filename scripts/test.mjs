// Runs the compiled tests of build/test with the runner of this Node: one process a file, more at a time than there are
// processors, because much of a test is waiting. Arguments that do not begin with a dash pick the files whose path
// contains one of them, --except=PART,PART leaves such files out; the others go to the runner. A file of the whole suite
// may take five minutes; one that was asked for takes as long as it likes (an hour of torture does).
// What failed is said again at the end. With --again, a few files that failed are run once more, with nothing beside
// them, and those that pass then are named and do not fail the run: thousands of tests that race threads against clocks
// need that on a machine shared with others. A process that died or hung is not run again.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { AGAIN, MAY_REPEAT, say } from './again.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const compiled = join(root, 'build', 'test');
if (!existsSync(compiled)) {
  console.error('pagefault: the tests are not compiled; "npm test" does it, or run "npx tsc -p test".');
  process.exit(2);
}

const EXCEPT = '--except=';
const again = process.argv.includes(AGAIN);
const options = process.argv
  .slice(2)
  .filter((argument) => argument.startsWith('-') && !argument.startsWith(EXCEPT) && argument !== AGAIN);
const unwanted = process.argv.slice(2).flatMap((argument) => {
  return argument.startsWith(EXCEPT) ? argument.slice(EXCEPT.length).split(',') : [];
});
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
/** Begun first, so that nothing of theirs is left when all else has ended. */
const isLong = (name) => /^(torture|signals)\//.test(name);
const files = readdirSync(compiled, { recursive: true })
  .filter((name) => name.endsWith('.test.js'))
  // A file whose source has gone is a leftover of an earlier compilation.
  .filter((name) => existsSync(join(root, 'test', name.replace(/\.js$/, '.ts'))))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .filter((name) => !unwanted.some((part) => name.includes(part)))
  .sort((a, b) => Number(isLong(b)) - Number(isLong(a)) || (a < b ? -1 : 1))
  .map((name) => relative(root, join(compiled, name)));
if (files.length === 0) {
  console.error(`pagefault: no test file matches ${wanted.join(', ')}.`);
  process.exit(2);
}

const limit = wanted.length === 0 ? ['--test-timeout=300000'] : [];
const notes = mkdtempSync(join(tmpdir(), 'pagefault-tests-'));

/**
 * The test file of a test that failed. What a test is made by the runner calls its file, also where that is a helper that
 * makes one for each backend; then the stack of what was thrown leads to it, or the only file that has the title.
 */
function fileOf({ name, file, error }) {
  const own = relative(root, file);
  if (files.includes(own)) return own;
  const thrown = files.filter((candidate) => error.includes(`${candidate}:`));
  if (thrown.length === 1) return thrown[0];
  const title = name.replace(/ \[[^[\]]*\]$/, '');
  const titled = files.filter((candidate) => readFileSync(join(root, candidate), 'utf8').includes(title));
  return titled.length === 1 ? titled[0] : own;
}

/** Runs test files, so many at a time: the runner's exit code, and what failed (paths relative to the project). */
function run(names, concurrency) {
  const list = join(notes, 'failures');
  writeFileSync(list, '');
  const reporters = [
    `--test-reporter=${process.stdout.isTTY ? 'spec' : 'tap'}`,
    '--test-reporter-destination=stdout',
    `--test-reporter=${pathToFileURL(join(root, 'scripts', 'failures.mjs'))}`,
    `--test-reporter-destination=${list}`,
  ];
  const runner = ['--test', `--test-concurrency=${concurrency}`, ...limit, ...reporters, ...options];
  const result = spawnSync(process.execPath, [...runner, ...names], { cwd: root, stdio: 'inherit' });
  const failed = readFileSync(list, 'utf8')
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
  for (const failure of failed) {
    failure.ofFile = resolve(root, failure.name) === resolve(root, failure.file);
    failure.file = fileOf(failure);
  }
  return { status: result.status ?? 1, failed };
}

/** Says again what failed, after the totals. */
function tell(heading, failed) {
  const told = failed.map(({ name, file, error }) => {
    return `# ${file}: ${name}\n${error.split('\n').slice(0, 30).join('\n').replace(/^/gm, '#     ')}\n`;
  });
  say(`\n# Node ${process.versions.node}, ${heading}\n${told.join('')}`);
}

let { status, failed } = run(files, 2 * availableParallelism());
if (failed.length > 0) tell('failed:', failed);
const suspects = [...new Set(failed.map(({ file }) => file))];
const clear = failed.every(({ file, ofFile }) => !ofFile && files.includes(file));
if (again && status !== 0 && clear && suspects.length > 0 && suspects.length <= MAY_REPEAT) {
  console.log(`\n# once more, with nothing beside: ${suspects.join(', ')}`);
  const second = run(suspects, 1);
  status = second.status;
  if (status === 0) tell('failed beside other tests, and passed alone: to be looked at', failed);
  else tell('failed again:', second.failed);
}
rmSync(notes, { recursive: true, force: true });
process.exit(status);

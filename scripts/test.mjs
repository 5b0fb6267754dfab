// Runs the compiled tests of build/test with the runner of this Node: one process a file, more at a time than there are
// processors, because much of a test is waiting. Arguments
// that do not begin with a dash pick the files whose path contains one of them, --except=PART,PART leaves such files out;
// the others go to the runner. A file of
// the whole suite may take five minutes; one that was asked for takes as long as it likes (an hour of torture does).
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const compiled = join(root, 'build', 'test');
if (!existsSync(compiled)) {
  console.error('pagefault: the tests are not compiled; "npm test" does it, or run "npx tsc -p test".');
  process.exit(2);
}

const EXCEPT = '--except=';
const options = process.argv.slice(2).filter((argument) => argument.startsWith('-') && !argument.startsWith(EXCEPT));
const unwanted = process.argv.slice(2).flatMap((argument) => {
  return argument.startsWith(EXCEPT) ? argument.slice(EXCEPT.length).split(',') : [];
});
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('-'));
const files = readdirSync(compiled, { recursive: true })
  .filter((name) => name.endsWith('.test.js'))
  // A file whose source has gone is a leftover of an earlier compilation.
  .filter((name) => existsSync(join(root, 'test', name.replace(/\.js$/, '.ts'))))
  .filter((name) => wanted.length === 0 || wanted.some((part) => name.includes(part)))
  .filter((name) => !unwanted.some((part) => name.includes(part)))
  .sort()
  .map((name) => relative(root, join(compiled, name)));
if (files.length === 0) {
  console.error(`pagefault: no test file matches ${wanted.join(', ')}.`);
  process.exit(2);
}

const limit = wanted.length === 0 ? ['--test-timeout=300000'] : [];
const runner = ['--test', `--test-concurrency=${2 * availableParallelism()}`, ...limit, ...options];
const result = spawnSync(process.execPath, [...runner, ...files], { cwd: root, stdio: 'inherit' });
process.exit(result.status ?? 1);

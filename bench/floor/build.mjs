// Builds the floors in C with one call of the compiler each, where missing or older than a source: all of them into the addon
// build/bench/floor.node, except those that are programs of their own. Run by the benchmark; `node bench/floor/build.mjs` does it by hand.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const native = join(here, '..', '..', 'native');
/** Of the library: what watch.c measures alone. */
const measured = [join(native, 'thread.c'), join(native, 'sync.c')];
const output = join(here, '..', '..', 'build', 'bench');
export const target = join(output, 'floor.node');
/** The floor of `pagefault paging`, a program. */
export const pagingProgram = join(output, 'paging');
/** Guests of the daemon, and the floor of the daemon: a program. */
export const guestProgram = join(output, 'guest');

/** @param {string} path */
const changed = (path) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;

/**
 * @param {string} made
 * @param {readonly string[]} options of the compiler, the sources among them
 */
function compile(made, options) {
  const [command = 'cc', ...prefix] = (process.env.CC || 'cc').split(' ').filter(Boolean);
  const temporary = `${made}.${process.pid}`;
  mkdirSync(output, { recursive: true });
  const result = spawnSync(
    command,
    [
      ...prefix,
      ...['-std=c11', '-O2', '-g', '-pthread', '-Wall', '-Wextra', '-Wshadow', '-Werror', '-D_GNU_SOURCE'],
      ...options,
      ...['-o', temporary],
    ],
    { stdio: ['ignore', 2, 2] },
  );
  if (result.error) throw new Error(`"${command}" cannot be started: ${result.error.message}`);
  if (result.status !== 0) {
    rmSync(temporary, { force: true });
    throw new Error(`"${command}" failed to build the floors of the benchmark.`);
  }
  renameSync(temporary, made);
}

/** Builds if something has changed. Throws if the compiler fails. */
export function build() {
  const files = readdirSync(here).map((name) => join(here, name));
  const headers = readdirSync(native).filter((name) => name.endsWith('.h'));
  const newest = Math.max(...[...files, ...measured, ...headers.map((name) => join(native, name))].map(changed));
  const programs = [join(here, 'paging.c'), join(here, 'guest.c')];
  for (const [i, made] of [pagingProgram, guestProgram].entries()) {
    if (changed(made) <= newest) compile(made, programs.slice(i, i + 1));
  }
  if (changed(target) <= newest) {
    const sources = files.filter((path) => path.endsWith('.c') && !programs.includes(path));
    const include = createRequire(import.meta.url)('node-api-headers').include_dir;
    compile(target, [
      ...[
        '-fPIC',
        '-shared',
        '-fvisibility=hidden',
        '-DNAPI_VERSION=9',
        `-I${include}`,
        `-I${native}`,
        ...sources,
        ...measured,
      ],
      '-Wl,-z,nodelete',
    ]);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) build();

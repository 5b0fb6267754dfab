/**
 * Finds and loads the C core, on first use and once a thread. Importing this file always succeeds: where the core
 * cannot run, `isSupported()` says false and every use throws an error that says why.
 */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { constants as osConstants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { errnoNames } from '../errors/from-native.js';
import { reasonOf } from '../errors/reason.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeBinding, NativeProbe } from './binding.js';

const constants = osConstants.errno;
const VARIABLE = 'PAGEFAULT_USERFAULTFD';
const root = new URL('../../', import.meta.url);

let loaded: NativeBinding | UnsupportedError | undefined;
let probed: NativeProbe | undefined;

/** musl and glibc need different binaries; the report names the version of glibc where that is what runs. */
function isMusl(): boolean {
  const report = process.report as (typeof process.report & { excludeNetwork?: boolean }) | undefined;
  if (report === undefined) return false;
  const before = report.excludeNetwork;
  report.excludeNetwork = true; // else the report looks up the names of all peers
  const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  if (before !== undefined) report.excludeNetwork = before;
  return header.glibcVersionRuntime === undefined;
}

function candidates(): string[] {
  const places: string[] = [];
  const prebuilds = new URL('prebuilds/', root);
  if (existsSync(prebuilds)) {
    const target = `${process.platform}-${process.arch}${isMusl() ? 'musl' : ''}`;
    places.push(fileURLToPath(new URL(`${target}/pagefault.node`, prebuilds)));
  }
  places.push(fileURLToPath(new URL('build/Release/pagefault.node', root)));
  return places.filter((place) => existsSync(place));
}

/**
 * Takes the descriptor of /dev/userfaultfd that this process inherited. One that is none is told of: without it the process would quietly have less than it was
 * given. From then on the variable says "3@PID": what this process starts (Node passes no descriptor on) knows that it was not meant, and another copy of the library
 * and Workers that it was. The core empties it for the process, because a Worker's environment is a copy.
 */
function withDevice(core: NativeBinding): NativeBinding | UnsupportedError {
  const given = process.env[VARIABLE];
  if (given === undefined || given === '') return core;
  const [, number, pid] = /^(\d{1,9})(?:@(\d+))?$/.exec(given) ?? [];
  if (pid !== undefined && Number(pid) !== process.pid) return core;
  const errno = number === undefined ? undefined : core.takeDevice(Number(number));
  if (errno === 0) process.env[VARIABLE] = `${number}@${process.pid}`;
  if (errno === 0 || pid !== undefined) return core; // it was there; another program in this process (exec) has no descriptor
  const why = errno === undefined ? 'is not the number of a descriptor' : `is not usable: ${errnoNames(errno).code}`;
  return new UnsupportedError(
    `${VARIABLE}=${given.slice(0, 20)} ${why}; it must be an open descriptor of /dev/userfaultfd (a Node program passes none on unless "stdio" names it)`,
  );
}

function load(): NativeBinding | UnsupportedError {
  if (process.platform !== 'linux') {
    return new UnsupportedError(`pagefault needs Linux; this is ${process.platform}.`);
  }
  if (process.arch !== 'x64' && process.arch !== 'arm64') {
    return new UnsupportedError(`pagefault runs on x64 and arm64; this is ${process.arch}.`);
  }
  if (!(Number(process.versions['napi'] ?? 0) >= 9)) {
    return new UnsupportedError('pagefault needs a runtime with Node-API 9 or later: Node.js 20.19 or later.');
  }
  const [place] = candidates();
  if (place === undefined) {
    return new UnsupportedError(
      `pagefault has no binary for ${process.platform}-${process.arch}; build it with "npm run build:native" in the package's folder (it needs a C compiler).`,
    );
  }
  try {
    return withDevice(createRequire(import.meta.url)(place) as NativeBinding);
  } catch (error) {
    const reason = reasonOf(error);
    return new UnsupportedError(`pagefault's binary cannot be loaded: ${reason}`, error);
  }
}

/** The core, or a thrown UnsupportedError that says why there is none. */
export function native(): NativeBinding {
  loaded ??= load();
  if (!(loaded instanceof UnsupportedError)) return loaded;
  const { message, cause } = loaded;
  if (cause !== undefined) loaded = undefined; // there may have been no memory for it, or no descriptor
  throw new UnsupportedError(message, cause);
}

/** Errnos that say that a limit is reached, not that something cannot be done here. */
const EXHAUSTED: readonly number[] = [constants.EMFILE, constants.ENFILE, constants.ENOMEM, constants.EAGAIN];

/** The errno because of which the kernel could not be asked what it can, or 0. */
export function exhausted({ userfaultfdErrno, mprotectErrno }: NativeProbe): number {
  return [userfaultfdErrno, mprotectErrno].find((errno) => EXHAUSTED.includes(errno)) ?? 0;
}

/** What the kernel and the runtime allow, asked once a thread; again where there was no descriptor or no memory to ask with. */
export function probe(): NativeProbe {
  if (probed !== undefined) return probed;
  const answer = native().probe();
  if (exhausted(answer) === 0) probed = answer;
  return answer;
}

/** Something has changed: the next `probe` asks anew. */
export function probeAgain(): void {
  probed = undefined;
}

/** Why nothing can be paged here, in a sentence, or undefined where something can. */
export function unsupportedReason(): string | undefined {
  try {
    const { engineErrno: userfaultfdErrno, mprotectErrno } = probe();
    if (userfaultfdErrno === 0 || mprotectErrno === 0) return undefined;
    return `neither backend works here: userfaultfd is refused (${errnoNames(userfaultfdErrno).code}) and so is mprotect on a memfd (${errnoNames(mprotectErrno).code}).`;
  } catch (error) {
    return reasonOf(error);
  }
}

/** True where `map` can work: the platform, the runtime and at least one backend are there. Never throws. */
export function isSupported(): boolean {
  return unsupportedReason() === undefined;
}

/** The system's page size in bytes: the smallest page a segment can have. */
export function systemPageSize(): number {
  return native().systemPageSize();
}

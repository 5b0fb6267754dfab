/**
 * Finds and loads the C core, on first use and once a thread. Importing this file always succeeds: where the core
 * cannot run, `isSupported()` says false and every use throws an error that says why.
 */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { errnoNames } from '../errors/from-native.js';
import { reasonOf } from '../errors/reason.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeBinding, NativeProbe } from './binding.js';

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
    return createRequire(import.meta.url)(place) as NativeBinding;
  } catch (error) {
    const reason = reasonOf(error);
    return new UnsupportedError(`pagefault's binary cannot be loaded: ${reason}`, error);
  }
}

/** The core, or a thrown UnsupportedError that says why there is none. */
export function native(): NativeBinding {
  loaded ??= load();
  if (loaded instanceof UnsupportedError) throw new UnsupportedError(loaded.message, loaded.cause);
  return loaded;
}

/** What the kernel and the runtime allow, asked once a thread. */
export function probe(): NativeProbe {
  probed ??= native().probe();
  return probed;
}

/** Why nothing can be paged here, in a sentence, or undefined where something can. */
export function unsupportedReason(): string | undefined {
  try {
    const { userfaultfdErrno, mprotectErrno } = probe();
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

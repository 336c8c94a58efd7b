import type { LaunchSpec, LaunchStatus, Lease } from "./domain/files.ts";
import { noRestarts, type Restarts } from "./domain/restarts.ts";

export interface AssignedInstance {
  readonly spec: LaunchSpec;
  readonly stop: boolean;
}

export interface Assignment {
  readonly version: string;
  readonly instances: readonly AssignedInstance[];
}

/** The files of domain/files.ts, from node-agent's side. */
export class InstanceStore {
  readonly dir: string;

  constructor(stateDir: string) {
    this.dir = stateDir;
    for (const part of ["instances", "pids"]) Deno.mkdirSync(`${stateDir}/${part}`, { recursive: true, mode: 0o700 });
  }

  instanceDir(id: string): string {
    return `${this.dir}/instances/${id}`;
  }

  /** Instances that have a directory. */
  present(): string[] {
    return [...Deno.readDirSync(`${this.dir}/instances`)].filter((entry) => entry.isDirectory).map(({ name }) => name);
  }

  assignment(): Assignment | undefined {
    return readJson(`${this.dir}/assignment.json`);
  }

  saveAssignment(assignment: Assignment): void {
    writeJson(`${this.dir}/assignment.json`, assignment);
  }

  saveLease(lease: Lease): void {
    writeJson(`${this.dir}/lease.json`, lease);
  }

  spec(id: string): LaunchSpec | undefined {
    return readJson(`${this.instanceDir(id)}/spec.json`);
  }

  create(spec: LaunchSpec): void {
    Deno.mkdirSync(this.instanceDir(spec.id), { recursive: true, mode: 0o700 });
    writeJson(`${this.instanceDir(spec.id)}/spec.json`, spec);
  }

  status(id: string): LaunchStatus | undefined {
    return readJson(`${this.instanceDir(id)}/status.json`);
  }

  clearStatus(id: string): void {
    remove(`${this.instanceDir(id)}/status.json`);
  }

  restarts(id: string): Restarts {
    return readJson(`${this.instanceDir(id)}/restarts.json`) ?? noRestarts;
  }

  saveRestarts(id: string, restarts: Restarts): void {
    writeJson(`${this.instanceDir(id)}/restarts.json`, restarts);
  }

  /** Asks its launcher to end the instance; asking again is no change. */
  askStop(id: string): void {
    const path = `${this.instanceDir(id)}/stop.json`;
    if (!exists(path)) writeJson(path, {});
  }

  /** A process of it may be left whose launcher is gone. */
  hasProcessRecord(id: string): boolean {
    return exists(`${this.dir}/pids/${id}.json`);
  }

  /** Whether a launcher holds it; ask only where this agent has not started one. */
  isHeld(id: string): boolean {
    using lock = Deno.openSync(`${this.instanceDir(id)}/lock`, { create: true, write: true, mode: 0o600 });
    if (!lock.tryLockSync(true)) return true;
    lock.unlockSync();
    return false;
  }

  forget(id: string): void {
    Deno.removeSync(this.instanceDir(id), { recursive: true });
    remove(`${this.dir}/pids/${id}.json`);
  }
}

function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

function readJson<T>(path: string): T | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(path)) as T;
  } catch (error) {
    // Every file is written whole and renamed: what cannot be read as JSON was written by somebody else.
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function writeJson(path: string, value: unknown): void {
  Deno.writeTextFileSync(`${path}.new`, JSON.stringify(value), { mode: 0o600 });
  Deno.renameSync(`${path}.new`, path);
}

function remove(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

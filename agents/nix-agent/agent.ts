import { type Clock, Fault, fault, type Rng, ulid } from "@ultracloud/base";
import { type AnyMarkerName, formatMarker, type SystemState } from "@ultracloud/cluster-state";
import type { Health, Logger } from "@ultracloud/observe";
import { type DrainHold } from "./drain.ts";
import { type Journal, recover, rejectionOf, rejectionsMax, type Trial } from "./domain/journal.ts";
import type { Host } from "./host.ts";
import { writeJournal } from "./journal_file.ts";
import type { Nix } from "./nix.ts";
import { runProgram } from "./programs.ts";
import type { Source, Wish } from "./source.ts";
import { failedCheck, type TrialRunner } from "./trial_runner.ts";

/** How often a trial under way is looked at. */
const trialLookMs = 200;
/** What the console of a freshly installed host shows of a change's end. */
const markerOf: Partial<Record<SystemState, AnyMarkerName>> = {
  "active": "desired-system-active",
  "rolled-back": "desired-system-rolled-back",
  "failed": "desired-system-failed",
};
/** The process of a trial that says nothing for this long after its start does not live. */
const trialStartMsMax = 10_000;

export interface AgentOptions {
  readonly node: string;
  readonly version: string;
  readonly journalFile: string;
  readonly root: string;
  readonly bootIdFile: string;
  readonly rebootCommand: readonly string[];
  readonly pollMs: number;
  readonly retryMs: number;
  readonly copyTimeoutMs: number;
  /** Shows a line on the host's console. */
  readonly showMarker?: (line: string) => void;
}

export interface AgentDeps {
  readonly nix: Nix;
  readonly runner: TrialRunner;
  readonly host: Host;
  readonly source: Source;
  /** Holds the node free of services, or says why not. */
  readonly drain: (
    o: {
      readonly reason: "switch" | "reboot";
      readonly targetSystem: string;
      readonly timeoutMs: number;
      readonly onWait: (reason: string) => Promise<void>;
    },
    signal: AbortSignal,
  ) => Promise<DrainHold>;
  readonly journal: Journal;
  readonly clock: Clock;
  readonly rng: Rng;
  readonly log: Logger;
  readonly health: Health;
}

/** What the agent knows now, for whoever asks. */
export interface AgentStatus {
  readonly journal: Journal;
  readonly currentSystem: string;
  readonly generation: number;
  readonly contactMs: number;
  readonly bootId: string;
}

/** Brings the host to what it should become, one generation at a time, and takes it back when that does not hold. */
export class Agent {
  readonly #o: AgentOptions;
  readonly #d: AgentDeps;
  #journal: Journal;
  #current: { system: string; generation: number } = { system: "", generation: 0 };
  #contactMs = 0;
  #bootId = "";
  #nudge = new AbortController();

  constructor(options: AgentOptions, deps: AgentDeps) {
    this.#o = options;
    this.#d = deps;
    this.#journal = deps.journal;
  }

  get status(): AgentStatus {
    const { system: currentSystem, generation } = this.#current;
    return { journal: this.#journal, currentSystem, generation, contactMs: this.#contactMs, bootId: this.#bootId };
  }

  /** Forgets that the intent was rejected, so that it is tried once more. */
  async retry(intentId: string): Promise<void> {
    if (rejectionOf(this.#journal, intentId) === undefined) {
      throw fault("not_found", "rejection_not_found", `Cannot try ${intentId.slice(0, 64)} again: it was not rejected`);
    }
    await this.#write({ rejections: this.#journal.rejections.filter((r) => r.intentId !== intentId) });
    this.#nudge.abort();
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, log, health } = this.#d;
    health.set("system", "starting", "the host has not been looked at yet");
    let known = "";
    while (!signal.aborted) {
      this.#nudge = new AbortController();
      let pauseMs = 0;
      try {
        await this.#look();
        await this.#recover(signal);
        // What was reported is not known to have arrived: each round says it again.
        await this.#report(signal);
        const wish = await this.#d.source.wish(known, this.#o.pollMs, AbortSignal.any([signal, this.#nudge.signal]));
        this.#contact();
        known = await this.#obey(wish, signal) ? wish.intentId : "";
        if (known === "") pauseMs = wish.intentId === "" ? Math.min(this.#o.pollMs, 1_000) : this.#o.retryMs;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Fault && error.code === "node_not_found") {
          // Nobody has announced this node yet, or it was removed: there is nothing to change.
          this.#contact();
          if (this.#journal.trial === undefined && this.#journal.intentId === "") {
            await this.#enter("idle", "whoever decides does not know this node", signal);
          }
          pauseMs = Math.min(this.#o.retryMs, 5_000);
        } else if (!this.#nudge.signal.aborted) {
          health.set("system", this.#contactMs === 0 ? "starting" : "degraded", sentence(error));
          log.warn("cannot go on with the system", { error: sentence(error) });
          pauseMs = Math.min(this.#o.retryMs, 5_000);
        }
        known = "";
      }
      if (pauseMs > 0) await clock.sleep(pauseMs, AbortSignal.any([signal, this.#nudge.signal])).catch(() => {});
    }
  }

  #contact(): void {
    this.#contactMs = this.#d.clock.nowMs();
    this.#d.health.set("system", "ready");
  }

  /** What the host is now. */
  async #look(): Promise<void> {
    const boot = await runProgram("cat", [this.#o.bootIdFile]);
    if (boot.code !== 0) throw fault("failed_precondition", "boot_id_unknown", `Cannot read ${this.#o.bootIdFile}`);
    this.#bootId = boot.stdout.trim();
    // Without a Nix there is no profile to ask for.
    const current = this.#d.host.nixFound ? await this.#d.nix.current() : undefined;
    this.#current = { system: current?.system ?? "", generation: current?.number ?? 0 };
  }

  async #write(change: Partial<Journal>): Promise<void> {
    const next = { ...this.#journal, ...change };
    await writeJournal(this.#o.journalFile, next);
    this.#journal = next;
  }

  /** Notes a state and tells it. That it cannot be told holds nothing up. */
  async #enter(state: SystemState, reason: string, signal: AbortSignal, change: Partial<Journal> = {}): Promise<void> {
    const same = this.#journal.state === state && this.#journal.reason === reason && Object.keys(change).length === 0;
    if (!same) {
      await this.#write({ ...change, state, reason, changedMs: this.#d.clock.nowMs() });
      this.#d.log.info("system state", {
        state,
        reason,
        intent: this.#journal.intentId,
        target: this.#journal.targetSystem,
      });
      const name = markerOf[state];
      if (name !== undefined) {
        const detail = reason === "" ? this.#journal.targetSystem : reason;
        this.#o.showMarker?.(formatMarker({ name, node: this.#o.node, detail }));
      }
    }
    await this.#report(signal).catch((error) => {
      if (!signal.aborted) this.#d.log.debug("cannot report", { error: String(error) });
    });
  }

  async #report(signal: AbortSignal): Promise<void> {
    const { state, reason, intentId, targetSystem } = this.#journal;
    await this.#d.source.report({
      state,
      reason,
      intentId,
      targetSystem,
      currentSystem: this.#current.system,
      generation: this.#current.generation,
      bootId: this.#bootId,
      agentVersion: this.#o.version,
    }, signal);
    this.#contact();
  }

  /** Answers false when it should be looked at again without a new wish. */
  async #obey(wish: Wish, signal: AbortSignal): Promise<boolean> {
    const { system, intentId } = wish;
    if (!this.#d.host.nixFound && system !== undefined) {
      // Said at once, and not as the failure of some step: nobody can mend it by another wish.
      const own = { intentId, targetSystem: system.target_system };
      await this.#enter("failed", `Cannot become ${system.target_system}: ${this.#d.host.nix}`, signal, own);
      return false;
    }
    if (system === undefined) {
      if (this.#journal.intentId === "") await this.#enter("idle", "nothing is desired", signal);
      return false;
    }
    const target = system.target_system;
    const settled = this.#journal.intentId === intentId && this.#journal.state === "active";
    if (settled && this.#current.system === target) return true;
    const own = { intentId, targetSystem: target };
    const rejected = rejectionOf(this.#journal, intentId);
    if (rejected !== undefined) {
      const stuck = this.#journal.state === "failed" && this.#journal.intentId === intentId;
      const state = stuck ? "failed" : "rolled-back";
      await this.#enter(state, rejected.reason, signal, this.#journal.intentId === intentId ? {} : own);
      return true;
    }
    if (wish.quarantineReason !== "") {
      const reason = `not tried, as its class keeps away from it: ${wish.quarantineReason}`;
      await this.#enter("idle", reason, signal, this.#journal.intentId === intentId ? {} : own);
      return false;
    }
    try {
      await this.#change(wish, signal);
      return true;
    } catch (error) {
      if (signal.aborted) throw error;
      // Nothing was touched: the node is what it was.
      const waits = error instanceof Fault && error.code.startsWith("drain_");
      await this.#enter(waits ? "preflight" : "failed", sentence(error), signal);
      return false;
    }
  }

  async #change(wish: Wish, signal: AbortSignal): Promise<void> {
    const { nix } = this.#d;
    const system = wish.system!;
    const { target_system: target, activation } = system;
    const own = { intentId: wish.intentId, targetSystem: target };
    const fresh = this.#current.system !== target;
    if (fresh) {
      await this.#preflight(wish, own, signal);
      await this.#enter("copying", "", signal);
      await nix.copy(wish.cache, target, AbortSignal.any([signal, AbortSignal.timeout(this.#o.copyTimeoutMs)]));
      const entry = await runProgram("readlink", ["-e", `${nix.at(target)}/bin/switch-to-configuration`]);
      if (entry.code !== 0) {
        throw fault(
          "failed_precondition",
          "not_a_system",
          `Cannot switch to ${target}: it has no bin/switch-to-configuration`,
        );
      }
      for (const check of system.pre_switch_checks) {
        const failed = await failedCheck(check, nix.at(target), signal);
        if (failed !== undefined) throw fault("failed_precondition", "check_failed", `Cannot switch: ${failed}`);
      }
    }
    const hold = fresh && system.drain === "required"
      ? await this.#d.drain({
        reason: activation,
        targetSystem: target,
        timeoutMs: system.drain_timeout_ms,
        onWait: (reason) => this.#enter("preflight", reason, signal),
      }, signal)
      : undefined;
    try {
      // The drain may have taken an hour: what was wished then may be quarantined now.
      const now = await this.#d.source.wish("", 0, signal);
      if (now.intentId !== wish.intentId || now.quarantineReason !== "") return;
      const trial: Trial = {
        id: ulid(this.#d.clock, this.#d.rng).toLowerCase(),
        intentId: wish.intentId,
        system,
        previousGeneration: fresh ? this.#current.generation : 0,
        previousSystem: fresh ? this.#current.system : "",
        bootId: this.#bootId,
        rebooting: false,
      };
      await this.#enter("activating", "", signal, { ...own, trial });
      if (fresh) await nix.setProfile(target);
      await this.#d.runner.start(trial, fresh ? "trial" : "verify");
      await this.#supervise(signal);
    } finally {
      await hold?.[Symbol.asyncDispose]();
    }
  }

  /** Everything that can be known before a byte is copied. */
  async #preflight({ cache, system }: Wish, own: Partial<Journal>, signal: AbortSignal): Promise<void> {
    const { nix } = this.#d;
    const target = system!.target_system;
    await this.#enter("preflight", "", signal, own);
    if (cache.url === "" || cache.trustedKeys.length === 0) {
      throw fault(
        "failed_precondition",
        "no_cache",
        `Cannot fetch ${target}: no cache, or no key that it is trusted by`,
      );
    }
    const bytes = await nix.closureBytes(cache, target, signal);
    await nix.checkSignatures(cache, target, signal);
    const free = await nix.freeBytes().catch(() => undefined);
    if (free !== undefined && free < bytes + system!.free_bytes_min) {
      throw fault(
        "resource_exhausted",
        "no_space",
        `Cannot fetch ${target} of ${bytes} bytes: ${free} bytes are free, and ${system!.free_bytes_min} must remain`,
      );
    }
  }

  /** Goes on with a trial that an agent before this one began, or that the host was restarted in. */
  async #recover(signal: AbortSignal): Promise<void> {
    const { trial } = this.#journal;
    if (trial === undefined) return;
    const { runner, log } = this.#d;
    const booted = trial.rebooting ? await runProgram("readlink", [`${this.#o.root}/run/booted-system`]) : undefined;
    const decision = recover(trial, {
      bootId: this.#bootId,
      result: await runner.result(),
      guardianAlive: await runner.alive(),
      bootedSystem: booted?.code === 0 ? booted.stdout.trim() : undefined,
    });
    log.info("a trial was under way", { trial: trial.id, ...decision });
    if (decision.kind === "verify") {
      await this.#write({ trial: { ...trial, bootId: this.#bootId, rebooting: false } });
      await runner.start(this.#journal.trial!, "verify");
    } else if (decision.kind === "roll-back") {
      await this.#write({ trial: { ...trial, bootId: this.#bootId, rebooting: false } });
      await runner.start(this.#journal.trial!, "roll-back", decision.cause);
    }
    await this.#supervise(signal);
  }

  /** Follows the trial to its result. The agent may go meanwhile: another one goes on here. */
  async #supervise(signal: AbortSignal): Promise<void> {
    const { runner, clock } = this.#d;
    const begunMs = clock.monotonicMs();
    let confirmed = false;
    for (;;) {
      const result = await runner.result();
      if (result !== undefined) return await this.#finish(result, signal);
      const phase = await runner.phase();
      if (phase === "verifying" || phase === "healthy") await this.#enter("verifying", "", signal);
      if (phase === "healthy" && !confirmed) confirmed = await this.#confirm(signal);
      if (phase === undefined && clock.monotonicMs() - begunMs > trialStartMsMax && !await runner.alive()) {
        throw fault("unavailable", "trial_silent", "Cannot follow the trial: its process does not live");
      }
      await clock.sleep(trialLookMs, signal);
    }
  }

  /** A system that cuts the node off from whoever decides about it is not kept, however healthy it calls itself. */
  async #confirm(signal: AbortSignal): Promise<boolean> {
    try {
      await this.#report(signal);
      await this.#d.runner.confirm();
      return true;
    } catch (error) {
      if (!signal.aborted) this.#d.log.warn("healthy, but out of contact", { error: sentence(error) });
      return false;
    }
  }

  async #finish(result: string, signal: AbortSignal): Promise<void> {
    const trial = this.#journal.trial!;
    await this.#look();
    if (result === "booting") return await this.#reboot(trial, signal);
    const space = result.indexOf(" ");
    const [word, reason] = space < 0 ? [result, ""] : [result.slice(0, space), result.slice(space + 1)];
    const { trial: _, ...rest } = this.#journal;
    this.#journal = rest;
    if (word === "active") {
      if (trial.system.activation === "reboot") await this.#d.runner.blessBoot();
      return await this.#enter("active", "", signal, {});
    }
    const rejection = {
      intentId: trial.intentId,
      targetSystem: trial.system.target_system,
      reason,
      timeMs: this.#d.clock.nowMs(),
    };
    const others = this.#journal.rejections.filter(({ intentId }) => intentId !== trial.intentId);
    const rejections = [...others, rejection].slice(-rejectionsMax);
    await this.#enter(word === "rolled-back" ? "rolled-back" : "failed", reason, signal, { rejections });
  }

  async #reboot(trial: Trial, signal: AbortSignal): Promise<void> {
    if (!trial.rebooting) {
      await this.#enter("activating", "the host is restarting", signal, { trial: { ...trial, rebooting: true } });
      const [program, ...args] = this.#o.rebootCommand;
      const ended = await runProgram(program!, args);
      if (ended.code !== 0) this.#d.log.error("cannot restart the host", { code: ended.code });
    }
    // The signal of the shutdown ends this wait.
    await this.#d.clock.sleep(this.#o.retryMs, signal);
  }
}

function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

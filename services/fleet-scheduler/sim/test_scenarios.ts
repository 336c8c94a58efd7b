import type { SeedOutcome } from "@ultracloud/testing";
import { decide } from "../domain/decide.ts";
import { type Bugs, Fleet, type FleetOptions, tickMs } from "./test_fleet.ts";

export interface StormFigures {
  readonly instances: number;
  readonly placeMs: number;
  readonly drained: number;
  readonly moved: number;
  /** Time on the nodes until the last one was drained. */
  readonly stormMs: number;
  /** Deciding and simulating it. */
  readonly wallMs: number;
  /** Least share of its replicas that any service had serving meanwhile, beside what its policy allows. */
  readonly leastServing: string;
}

/** Places everything, then drains a tenth of the nodes at once; throws when a service has too few serving. */
export function storm(o: FleetOptions): StormFigures {
  const fleet = new Fleet(o);
  const started = performance.now();
  fleet.schedule();
  const placeMs = performance.now() - started;
  const instances = fleet.placed;
  fleet.settle(600_000);
  expectAllServing(fleet);

  const victims = [...fleet.nodes.keys()].filter((_, i) => i % 10 === 3);
  for (const name of victims) fleet.drain(name);
  const before = fleet.placed, fromMs = fleet.nowMs, wall = performance.now();
  let least = { share: 1, text: "every service kept all its replicas" };
  const watch = () => {
    for (const [name, { kept }] of fleet.services) {
      const { replicas, update, drain } = kept.spec;
      const serving = fleet.serving(name);
      const allowed = replicas - Math.min(update.maxParallel, drain.maxParallel);
      if (serving < allowed) throw new Error(`${name} has ${serving} serving, its policy asks for ${allowed}`);
      if (serving / replicas < least.share) {
        least = { share: serving / replicas, text: `${name}: ${serving} of ${replicas}, allowed ${allowed}` };
      }
    }
  };
  while (victims.some((name) => fleet.nodes.get(name)!.view.drain?.phase !== "drained")) {
    fleet.schedule();
    fleet.tick();
    watch();
    if (fleet.nowMs - fromMs > 3_600_000) throw new Error("the drains do not end");
  }
  return {
    instances,
    placeMs,
    drained: victims.length,
    moved: fleet.placed - before,
    stormMs: fleet.nowMs - fromMs,
    wallMs: performance.now() - wall,
    leastServing: least.text,
  };
}

/** Every service has what it asks for, or there is a reason why not. */
function expectAllServing(fleet: Fleet): void {
  const short = new Map(decide(fleet.view()).unplaced.map((entry) => [entry.service, entry.count]));
  for (const [name, { kept }] of fleet.services) {
    const wanted = kept.spec.replicas - (short.get(name) ?? 0);
    const serving = fleet.serving(name);
    // In a change that lacks places old ones still serve.
    if (serving < wanted || serving > kept.spec.replicas) {
      throw new Error(`${name} has ${serving} serving at rest, wanted ${wanted}`);
    }
  }
}

/** Random faults and changes on a small fleet; then everything heals and must come to rest as wished. */
export function chaos(seed: number, bugs: Bugs = {}): SeedOutcome {
  const fleet = new Fleet({
    seed,
    nodes: 8 + seed % 9,
    services: 4 + seed % 7,
    replicas: 1 + seed % 4,
    bugs,
    tight: seed % 2 === 1,
  });
  const faults: Record<string, number> = {};
  const count = (kind: string) => faults[kind] = (faults[kind] ?? 0) + 1;
  const names = [...fleet.nodes.keys()];
  const services = [...fleet.services.keys()];
  const bad = new Set<string>();
  let version = 2;
  fleet.settle(600_000);
  // Only drains touch what serves meanwhile: no service may fall below its policy.
  const gentle = seed % 3 === 0;
  // What has no place to begin with has nothing to lose.
  const whole = services.filter((name) => fleet.serving(name) === fleet.services.get(name)!.kept.spec.replicas);
  for (let step = 0; step < 240; step++) {
    if (fleet.chance(0.06)) {
      const name = fleet.pick(names), node = fleet.nodes.get(name)!;
      if (!gentle && fleet.chance(0.5)) {
        node.connected = !node.connected;
        count(node.connected ? "node returned" : "node cut off");
      } else if (node.view.drain) {
        fleet.setNode(name, { drain: null });
        count("drain ended");
      } else {
        const force = !gentle && fleet.chance(0.3);
        fleet.drain(name, force ? { atDeadline: "force", deadlineMs: fleet.nowMs + 20_000 } : {});
        count(force ? "drain with force" : "drain");
      }
    }
    if (!gentle && fleet.chance(0.03)) {
      const name = fleet.pick(services), { kept } = fleet.services.get(name)!;
      // What never stood has nothing to go back to: a bad one would be tried for ever.
      const isBad = kept.stable !== null && fleet.chance(0.4);
      if (isBad) bad.add(name);
      else bad.delete(name);
      fleet.apply(name, kept.spec, `${isBad ? "bad" : "v"}${version++}`);
      count(isBad ? "bad template" : "new template");
    }
    fleet.schedule();
    fleet.tick();
    if (gentle) {
      for (const name of whole) {
        const { replicas, update, drain } = fleet.services.get(name)!.kept.spec;
        const allowed = replicas - Math.min(update.maxParallel, drain.maxParallel);
        if (fleet.serving(name) < allowed) {
          throw new Error(`${name} has ${fleet.serving(name)} serving under drains, its policy asks for ${allowed}`);
        }
      }
    }
  }
  for (const name of names) {
    fleet.nodes.get(name)!.connected = true;
    fleet.setNode(name, { drain: null });
  }
  fleet.settle(1_200_000);
  const short = new Set(decide(fleet.view()).unplaced.map(({ service }) => service));
  for (const name of services) {
    // One that lacks places already gives none up for a change: it says so and waits.
    if (short.has(name)) continue;
    const { kept, instances } = fleet.services.get(name)!;
    if (kept.hash.startsWith("bad") && kept.stable !== null) {
      throw new Error(`${name} stays at ${kept.hash} (${kept.update.phase}) though it never was healthy`);
    }
    for (const { hash } of instances) {
      if (hash !== kept.hash) throw new Error(`${name} still runs ${hash} beside ${kept.hash} (${kept.update.phase})`);
    }
  }
  if (!services.some((name) => fleet.services.get(name)!.kept.hash.startsWith("bad"))) expectAllServing(fleet);
  const ids = services.flatMap((name) => fleet.services.get(name)!.instances.map(({ id, node }) => `${id}@${node}`));
  return { traceHash: `${fleet.nowMs / tickMs}:${fleet.decisions}:${ids.join(",")}`, events: fleet.decisions, faults };
}

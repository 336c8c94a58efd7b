import { Placer, Room } from "./placement.ts";
import type { NodeView, World } from "./types.ts";

/** Why each node takes no further instance of a service; a node that would is among `open`. */
export function explain(
  world: Pick<World, "services" | "nodes">,
  name: string,
): { readonly refusals: Record<string, string>; readonly open: string[] } {
  const rooms = new Map(world.nodes.map((node) => [node.name, new Room(node)]));
  const present: NodeView[] = [];
  for (const service of world.services) {
    for (const { node, template } of service.instances) {
      const room = rooms.get(node);
      if (!room) continue;
      room.take(template, service.name);
      if (service.name === name) present.push(room.node);
    }
  }
  const { spec } = world.services.find((service) => service.name === name)!;
  const refusals = new Placer(name, spec, [...rooms.values()], present).whyNot();
  return { refusals, open: world.nodes.map((node) => node.name).filter((node) => !(node in refusals)) };
}

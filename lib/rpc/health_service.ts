import { BoundedQueue, fault } from "@ultracloud/base";
import type { Health } from "@ultracloud/observe";
import { Health as HealthService, HealthCheckResponse_ServingStatus as Status } from "@ultracloud/proto/grpc/health/v1";
import { bind, type BoundService } from "./types.ts";

/** grpc.health.v1 over Connect; `services` are the names it knows besides "". */
export function healthService(health: Health, services: ReadonlySet<string>): BoundService {
  const status = () => health.serving ? Status.SERVING : Status.NOT_SERVING;
  const knows = (service: string) => service === "" || services.has(service);
  return bind(HealthService, {
    check(request) {
      if (knows(request.service)) return { status: status() };
      throw fault("not_found", "service_unknown", `Cannot find service ${request.service.slice(0, 100)}`);
    },
    async *watch(request, { signal }) {
      // One waiting change is enough: the status is read when it is sent.
      const changes = new BoundedQueue<true>({ name: "health changes", limit: 1 });
      const stop = health.onChange(() => {
        if (changes.size === 0) changes.push(true);
      });
      try {
        let sent: Status | undefined;
        for (;;) {
          const now = knows(request.service) ? status() : Status.SERVICE_UNKNOWN;
          if (now !== sent) yield { status: now };
          sent = now;
          await changes.take(signal);
        }
      } finally {
        stop();
      }
    },
  }, {
    check: { public: "load balancers ask without credentials" },
    watch: { public: "load balancers ask without credentials" },
  });
}

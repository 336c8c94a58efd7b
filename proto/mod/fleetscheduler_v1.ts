export * from "../gen/ultracloud/fleetscheduler/v1/fleet_pb.ts";

# A machine with systemd as its process 1 and Kakitome installed where the unit expects it: the image with Debian's
# systemd added.
ARG IMAGE=kakitome:test
FROM ${IMAGE}
# hadolint ignore=DL3002
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends systemd dbus procps \
 && groupadd --system ssl-cert \
 && rm -rf /var/lib/apt/lists/* /etc/systemd/system/*.wants
ENV container=docker
HEALTHCHECK NONE
STOPSIGNAL SIGRTMIN+3
# On a bare machine mounts are shared, and systemd hands credentials to services by one.
ENTRYPOINT ["/bin/sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd --log-target=journal"]

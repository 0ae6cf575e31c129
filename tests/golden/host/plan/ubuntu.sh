# a translating IOMMU sends what GPUs say to each other through the CPU. Source: NCCL user guide,
# troubleshooting, GPU direct and PCI access control services.
step iommu 'IOMMU: translating (DMA-FQ), advised off, or passthrough'
put /etc/default/grub.d/99-imgbuild-iommu.cfg 0644 << 'EOF'
# Written by imgbuild host plan (iommu).
GRUB_CMDLINE_LINUX="${GRUB_CMDLINE_LINUX-} iommu=pt"
EOF
run '' update-grub update-grub ''
boot

# each connection and each shard of the weights is one. Source: an image's own start says so below
# 4096 (builder/runtime/advice.py).
# for logins from now on, and services from the next boot on
step nofile 'open files: 1024, advised 65536'
put /etc/security/limits.d/90-imgbuild-nofile.conf 0644 << 'EOF'
# Written by imgbuild host plan (nofile).
* soft nofile 65536
* hard nofile 1048576
root soft nofile 65536
root hard nofile 1048576
EOF
put /etc/systemd/system.conf.d/90-imgbuild-nofile.conf 0644 << 'EOF'
# Written by imgbuild host plan (nofile).
[Manager]
DefaultLimitNOFILE=65536:1048576
EOF

# RDMA registers its buffers in locked memory. Source: an image's own start says so below 1 GiB
# beside InfiniBand (builder/runtime/advice.py).
# for logins from now on, and services from the next boot on
step memlock 'locked memory: 8192 KiB, advised unlimited'
put /etc/security/limits.d/90-imgbuild-memlock.conf 0644 << 'EOF'
# Written by imgbuild host plan (memlock).
* soft memlock unlimited
* hard memlock unlimited
root soft memlock unlimited
root hard memlock unlimited
EOF
put /etc/systemd/system.conf.d/90-imgbuild-memlock.conf 0644 << 'EOF'
# Written by imgbuild host plan (memlock).
[Manager]
DefaultLimitMEMLOCK=infinity
EOF

# cores wake slowly for the short bursts between kernel launches. Source: Linux kernel
# documentation, CPU performance scaling.
step governor 'CPU frequency governor: powersave, advised performance'
put /etc/tmpfiles.d/90-imgbuild-governor.conf 0644 << 'EOF'
# Written by imgbuild host plan (governor).
w /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor - - - - performance
EOF
live '/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor' performance

# the scheduler puts nothing on isolated CPUs, and servers' threads crowd onto the others. Source:
# Linux kernel documentation, kernel parameters, isolcpus.
step cpu-isolation 'isolated CPUs: isolcpus=1-31, advised none'
put /etc/default/grub.d/99-imgbuild-cpu-isolation.cfg 0644 << 'EOF'
# Written by imgbuild host plan (cpu-isolation).
imgbuild_without() {
    printf ' %s ' "$1" | sed -E ':a; s/ (isolcpus=1-31) / /; ta; s/^ *//; s/ *$//'
}
GRUB_CMDLINE_LINUX=$(imgbuild_without "${GRUB_CMDLINE_LINUX-}")
GRUB_CMDLINE_LINUX_DEFAULT=$(imgbuild_without "${GRUB_CMDLINE_LINUX_DEFAULT-}")
EOF
run '' update-grub update-grub ''
boot

# it unmaps pages to see who uses them, while a server's threads have their places. Source: Linux
# kernel documentation, sysctl/kernel, numa_balancing.
step numa-balancing 'automatic NUMA balancing: 1, advised 0'
put /etc/sysctl.d/90-imgbuild-numa-balancing.conf 0644 << 'EOF'
# Written by imgbuild host plan (numa-balancing).
kernel.numa_balancing = 0
EOF
read_later /etc/sysctl.d/90-imgbuild-numa-balancing.conf
live /proc/sys/kernel/numa_balancing 0

# page tables of model weights take time on every first touch. Source: Linux kernel documentation,
# transparent hugepage support.
step thp 'transparent huge pages: never, advised madvise or always'
put /etc/tmpfiles.d/90-imgbuild-thp.conf 0644 << 'EOF'
# Written by imgbuild host plan (thp).
w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise
EOF
live /sys/kernel/mm/transparent_hugepage/enabled madvise

# no server in these images asks for static huge pages, and what is reserved nobody else gets.
# Source: Linux kernel documentation, hugetlbpage.
step hugepages-2m-sysfs 'static huge pages, 2 MiB: 1024 (2.0 GiB), none in use, advised none that nobody uses'
put /etc/tmpfiles.d/90-imgbuild-hugepages-2m-sysfs.conf 0644 << 'EOF'
# Written by imgbuild host plan (hugepages-2m-sysfs).
w /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages - - - - 0
EOF
live /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 0

# no server in these images asks for static huge pages, and what is reserved nobody else gets.
# Source: Linux kernel documentation, hugetlbpage.
step hugepages-arguments 'static huge pages, 2 MiB: 1024 (2.0 GiB), none in use, advised none that nobody uses'
put /etc/default/grub.d/99-imgbuild-hugepages-arguments.cfg 0644 << 'EOF'
# Written by imgbuild host plan (hugepages-arguments).
imgbuild_without() {
    printf ' %s ' "$1" | sed -E ':a; s/ (hugepagesz=2M|hugepages=1024) / /; ta; s/^ *//; s/ *$//'
}
GRUB_CMDLINE_LINUX=$(imgbuild_without "${GRUB_CMDLINE_LINUX-}")
GRUB_CMDLINE_LINUX_DEFAULT=$(imgbuild_without "${GRUB_CMDLINE_LINUX_DEFAULT-}")
EOF
run '' update-grub update-grub ''
boot

# a server whose pages were swapped out while the page cache filled with weights answers late.
# Source: tuned's profile throughput-performance; Linux kernel documentation, sysctl/vm.
step swappiness 'swappiness: 60, advised 10 or less'
put /etc/sysctl.d/90-imgbuild-swappiness.conf 0644 << 'EOF'
# Written by imgbuild host plan (swappiness).
vm.swappiness = 10
EOF
read_later /etc/sysctl.d/90-imgbuild-swappiness.conf
live /proc/sys/vm/swappiness 10

# ranks of tensor parallelism and vLLM's processes exchange tensors there. Source: NCCL user
# guide, troubleshooting, shared memory.
step shm '/dev/shm: 64 MiB, advised at least 8192 MiB'
put /etc/systemd/system/imgbuild-shm.service 0644 << 'EOF'
# Written by imgbuild host plan (shm).
[Unit]
Description=Size of /dev/shm (imgbuild host plan)
After=local-fs.target nvidia-persistenced.service
Before=docker.service containerd.service kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mount -o remount,size=8589934592 /dev/shm
ExecStop=/bin/mount -o remount,size=67108864 /dev/shm

[Install]
WantedBy=multi-user.target
EOF
unit imgbuild-shm.service

# an NVMe disk sorts its requests itself, in many queues. Source: Linux kernel documentation,
# multi-queue block IO queueing mechanism.
step io-scheduler 'I/O scheduler of NVMe disks: mq-deadline (1), none (1), advised none'
put /etc/udev/rules.d/90-imgbuild-io-scheduler.rules 0644 << 'EOF'
# Written by imgbuild host plan (io-scheduler).
ACTION=="add|change", SUBSYSTEM=="block", ENV{DEVTYPE}=="disk", KERNEL=="nvme[0-9]*n[0-9]*", ATTR{queue/scheduler}="none"
EOF
run '' '[ ! -S /run/udev/control ] || udevadm control --reload' '[ ! -S /run/udev/control ] || udevadm control --reload' ''
live /sys/block/nvme0n1/queue/scheduler none

# without it the driver sets the GPU up anew for each first process. Source: NVIDIA driver
# persistence guide.
step persistence 'persistence mode: Disabled, advised enabled'
unit nvidia-persistenced.service

# below it the clocks fall under load. Source: nvidia-smi(1), --power-limit.
step power-limit 'power limit: 500 of 700 W, advised the card'"'"'s default'
put /etc/systemd/system/imgbuild-power-limit.service 0644 << 'EOF'
# Written by imgbuild host plan (power-limit).
[Unit]
Description=Power limits of GPUs (imgbuild host plan)
After=local-fs.target nvidia-persistenced.service
Before=docker.service containerd.service kubelet.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/nvidia-smi -i 0 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 1 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 2 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 3 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 4 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 5 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 6 --power-limit 700
ExecStart=/usr/bin/nvidia-smi -i 7 --power-limit 700
ExecStop=/usr/bin/nvidia-smi -i 0 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 1 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 2 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 3 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 4 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 5 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 6 --power-limit 500
ExecStop=/usr/bin/nvidia-smi -i 7 --power-limit 500

[Install]
WantedBy=multi-user.target
EOF
unit imgbuild-power-limit.service

# without it a flipped bit changes answers, and nobody is told. Source: NVIDIA GPU memory error
# management.
step ecc 'memory errors (ECC): Disabled, advised enabled, nothing pending'
run 'nvidia-smi -i 0 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 0 --ecc-config=1' 'nvidia-smi -i 0 --ecc-config=0' ''
run 'nvidia-smi -i 1 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 1 --ecc-config=1' 'nvidia-smi -i 1 --ecc-config=0' ''
run 'nvidia-smi -i 2 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 2 --ecc-config=1' 'nvidia-smi -i 2 --ecc-config=0' ''
run 'nvidia-smi -i 3 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 3 --ecc-config=1' 'nvidia-smi -i 3 --ecc-config=0' ''
run 'nvidia-smi -i 4 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 4 --ecc-config=1' 'nvidia-smi -i 4 --ecc-config=0' ''
run 'nvidia-smi -i 5 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 5 --ecc-config=1' 'nvidia-smi -i 5 --ecc-config=0' ''
run 'nvidia-smi -i 6 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 6 --ecc-config=1' 'nvidia-smi -i 6 --ecc-config=0' ''
run 'nvidia-smi -i 7 --query-gpu=ecc.mode.pending --format=csv,noheader | grep -qx Enabled' 'nvidia-smi -i 7 --ecc-config=1' 'nvidia-smi -i 7 --ecc-config=0' ''
boot

# one repository for all distributions, with a key of its own for apt. Source: NVIDIA container
# toolkit, installation guide.
step container-toolkit-repository 'NVIDIA'"'"'s repository of the container toolkit: not looked for, advised https://nvidia.github.io/libnvidia-container/stable'
packages ca-certificates curl
put /etc/apt/sources.list.d/nvidia-container-toolkit.list 0644 << 'EOF'
# Written by imgbuild host plan (container-toolkit).
deb [signed-by=/etc/apt/keyrings/nvidia-container-toolkit.asc] https://nvidia.github.io/libnvidia-container/stable/deb/amd64 /
EOF
run '[ -s /etc/apt/keyrings/nvidia-container-toolkit.asc ]' 'curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey -o /etc/apt/keyrings/nvidia-container-toolkit.asc' '' /etc/apt/keyrings/nvidia-container-toolkit.asc

# it gives GPUs to containers of Docker, Podman and Kubernetes; older ones let containers escape.
# Source: NVIDIA container toolkit, installation guide; NVIDIA's security bulletin of July 2025.
step container-toolkit 'NVIDIA'"'"'s container toolkit: not installed, advised 1.17.8 or newer'
packages 'nvidia-container-toolkit>=1.17.8'

# docker run --gpus asks for it. Source: NVIDIA container toolkit, installation guide, configuring
# Docker.
# restart Docker when its containers may stop: systemctl restart docker
step container-toolkit-docker 'Docker'"'"'s runtime for GPUs: not looked for, advised nvidia'
run 'grep -q nvidia-container-runtime /etc/docker/daemon.json' 'nvidia-ctk runtime configure --runtime=docker' '' /etc/docker/daemon.json

# it lists the driver's files, whose names change with each driver. Source: NVIDIA container
# toolkit, support for container device interface.
step cdi 'container device interface (CDI): no specification, advised a specification of the running driver'
run 'grep -qsF '"'"'libcuda.so.580.95.05'"'"' /var/run/cdi/nvidia.yaml /etc/cdi/nvidia.yaml' 'systemctl start nvidia-cdi-refresh.service || nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml' '' /etc/cdi/nvidia.yaml
unit nvidia-cdi-refresh.path

# Kubernetes and systemd have ended their support of version 1. Source: Kubernetes documentation,
# about cgroup v2.
step cgroup 'control groups: version 1, advised version 2'
put /etc/default/grub.d/99-imgbuild-cgroup.cfg 0644 << 'EOF'
# Written by imgbuild host plan (cgroup).
GRUB_CMDLINE_LINUX="${GRUB_CMDLINE_LINUX-} systemd.unified_cgroup_hierarchy=1"
EOF
run '' update-grub update-grub ''
boot

# not here: kernel: kernel: 4.15.0-20-generic: no setting puts it right.
# by hand: upgrade the distribution, or its kernel
# not here: acs: PCI access control services: on at 1 of 1 bridges: 0000:16:01.0 (firmware
# ACS=disabled): a setting of the BIOS or the hypervisor, which no command of the host reaches.
# by hand: turn it off in the BIOS; until then `setpci -s BRIDGE ECAP_ACS+0x6.w=0000` after each
# boot. Not on hosts that hand devices to virtual machines
# not here: cpu-pinning: whole CPUs for pods: CPU manager policy none (kubelet
# cpuManagerPolicy=static, kubelet topologyManagerPolicy=single-numa-node): a node is drained
# first; `imgbuild deploy k8s` writes the kubelet's configuration.
# by hand: cpuManagerPolicy static, reservedSystemCPUs and topologyManagerPolicy in the kubelet's
# configuration; drain the node and remove cpu_manager_state
# not here: nic-numa: NUMA nodes of RDMA cards: mlx5_0 on node 0: GPUs on node 1 have no card
# there.
# by hand: move the card to a slot of that socket

finish

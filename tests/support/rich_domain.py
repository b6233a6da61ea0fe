"""A domain with everything in it that makes a VM one of its kind."""

OLD_UUID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
RICH = f"""
<domain type='kvm' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>golden</name><uuid>{OLD_UUID}</uuid><genid>{OLD_UUID}</genid><title>the golden one</title>
  <metadata><app:x xmlns:app='urn:app'>kept</app:x></metadata>
  <memory unit='MiB'>192</memory>
  <sysinfo type='smbios'>
    <system><entry name='serial'>S1</entry><entry name='uuid'>{OLD_UUID}</entry>
      <entry name='manufacturer'>Lab</entry></system>
    <baseBoard><entry name='serial'>S2</entry></baseBoard>
    <chassis><entry name='asset'>S3</entry></chassis>
  </sysinfo>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>
    <nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/old/golden/golden_VARS.fd</nvram>
    <kernel>/boot/vmlinuz</kernel></os>
  <devices>
    <disk type='file' device='disk'><source file='/old/golden/disk.raw' index='2'/>
      <backingStore/><target dev='vda'/><serial>D1</serial><wwn>5000c50015ea71aa</wwn></disk>
    <disk type='file' device='cdrom'><source file='/isos/tools.iso'/><target dev='sda' bus='sata'/>
      <readonly/></disk>
    <disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>
    <interface type='network'><mac address='52:54:00:12:34:56'/>
      <source network='default' portid='{OLD_UUID}'/><target dev='vnet7'/><alias name='net0'/>
      <virtualport type='openvswitch'><parameters interfaceid='{OLD_UUID}'/></virtualport>
      </interface>
    <interface type='user'/>
    <serial type='file'><source path='/old/golden/console.log'/>
      <log file='/var/log/boot.log'/></serial>
    <channel type='unix'><source mode='bind' path='/run/golden.agent'/></channel>
    <channel type='unix'><source mode='bind' path='/run/agent.sock'/></channel>
    <graphics type='vnc' port='5907' autoport='no'/>
    <graphics type='spice' tlsPort='5908'>
      <listen type='socket' socket='/run/golden.spice'/></graphics>
    <vsock><cid auto='no' address='7'/></vsock>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
  </devices>
  <seclabel type='dynamic' model='dac'><label>+0:+0</label></seclabel>
  <seclabel type='none' model='selinux'/>
  <qemu:commandline><qemu:arg value='-d'/></qemu:commandline>
</domain>
"""

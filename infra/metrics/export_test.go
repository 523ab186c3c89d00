package metrics

// DiskWritten is what a process has had written to disks.
var DiskWritten = diskWritten

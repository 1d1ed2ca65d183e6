"""Music servers that have the same library: their ids of tracks, their scans, their playlists.

`config` says which there are; `navidrome`, `subsonic`, `jellyfin` and `lyrion` speak to one each;
`matching` finds which of a server's items is which track; `side_table` keeps the result, which may
be deleted at any time. Importing this imports nothing heavy.
"""

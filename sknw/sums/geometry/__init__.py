"""Where points stand: blocks of them, which blocks meet, squared distances."""

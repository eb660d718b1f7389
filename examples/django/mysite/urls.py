from django.urls import path

from mysite import views

urlpatterns = [
    path("", views.hello),
    path("healthz", views.healthz),
    path("wait", views.wait),
    path("work", views.work),
    path("echo", views.echo),
    path("bytes", views.download),
    path("events", views.events),
    path("poll", views.poll),
    path("whoami", views.whoami, name="whoami"),
    path("moved", views.moved),
]
